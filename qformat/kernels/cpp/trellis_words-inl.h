// States by vectors of words. What includes this has unpack<WIDTH>(codes, steps, words), Words of at least sixteen, and
// words_before<N>(previous, here), those that lie N before `here`.

// Windows of BACK codes to those of twice as many, and so on until they are states. `previous`: what each step made of the words
// before these.
template <int WIDTH, int BACK = 1>
static inline Words reach_back(Words here, Words* previous) {
    if constexpr (BACK * WIDTH >= kStateBits) {
        return here;
    } else {
        const Words joined = here | words_before<BACK>(*previous, here) << (BACK * WIDTH);
        *previous = here;
        return reach_back<WIDTH, 2 * BACK>(joined, previous + 1);
    }
}

template <int WIDTH>
static void states(const uint8_t* codes, size_t steps, uint16_t* words) {
    constexpr size_t several = sizeof(Words) / 2;
    unpack<WIDTH>(codes, steps, words);
    const auto load = [&](size_t i) {
        Words v;
        __builtin_memcpy(&v, words + i, sizeof v);
        return v;
    };
    // the first codes follow the last ones, of which at most eight words are used: those whose windows are whole
    Words previous[4] = {};
    reach_back<WIDTH>(load(steps - several), previous);
    for (size_t i = 0; i < steps; i += several) {
        const Words found = reach_back<WIDTH>(load(i), previous);
        __builtin_memcpy(words + i, &found, sizeof found);
    }
}
