// The inner loops of the panel kernels for AVX2, eight rows at a time: a compiler keeps registers of eight lanes where they are,
// and vectors of sixteen in memory. Included by panel-inl.h, which has the same for sixteen rows and says what they compute.

static inline __m256i load_half_codes(const uint8_t* p, int half) { return _mm256_loadu_si256((const __m256i*)(p + 32 * half)); }

template <int W, bool TABLE, int B, int COLUMNS>
QF_INLINE void dot_plane(const uint8_t* p, const int8_t* x, int columns, int shift, const ByteTable& table, I32* dot) {
    constexpr int fields = 8 / W;
    if (COLUMNS) columns = COLUMNS;
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        __m256i acc[B] = {};
#pragma GCC unroll 16
        for (int c = 0; c < (COLUMNS ? COLUMNS : columns); c++) {
            const __m256i dwords = load_half_codes(p + 64 * c, half);
#pragma GCC unroll 8
            for (int j = 0; j < fields; j++) {
                const __m256i mask = _mm256_set1_epi32((int)byte_mask<W>());
                const __m256i field = W == 8 ? dwords : _mm256_and_si256(_mm256_srli_epi32(dwords, j * W), mask);
                const __m256i codes = TABLE ? lut_half<W>(table, field) : field;
#pragma GCC unroll 8
                for (int b = 0; b < B; b++) {
                    int inputs;
                    __builtin_memcpy(&inputs, x + 64 * b + 4 * (c * fields + j), 4);
                    acc[b] = dot4_half<TABLE ? 8 : W>(acc[b], codes, _mm256_set1_epi32(inputs));
                }
            }
        }
#pragma GCC unroll 8
        for (int b = 0; b < B; b++) {
            __m256i* to = (__m256i*)(dot + b) + half;
            *to = _mm256_add_epi32(*to, _mm256_slli_epi32(acc[b], shift));
        }
    }
}

// The codes of input `i` of a unit of 32 inputs in eight rows: `p[plane]` is where the unit's columns start. For tables of 16
// entries what lies above a code of one plane may stay.
template <int BITS, bool MASKED>
QF_INLINE __m256i half_codes(const uint8_t* const* p, int i, int half) {
    const auto field = [&](int plane) {
        const int w = Planes<BITS>::width[plane], per_column = 32 / w, inside = i % per_column;
        return _mm256_srli_epi32(load_half_codes(p[plane] + 64 * (i / per_column), half), 8 * (inside % 4) + w * (inside / 4));
    };
    if constexpr (!MASKED && Planes<BITS>::count == 1) return field(0);
    __m256i codes = _mm256_setzero_si256();
    int at = 0;
#pragma GCC unroll 3
    for (int plane = 0; plane < Planes<BITS>::count; plane++) {
        const __m256i mask = _mm256_set1_epi32((1 << Planes<BITS>::width[plane]) - 1);
        codes = _mm256_or_si256(codes, _mm256_slli_epi32(_mm256_and_si256(field(plane), mask), at));
        at += Planes<BITS>::width[plane];
    }
    return codes;
}

// Half of a unit of `inputs` inputs, or, if FULL, 32.
template <int BITS, bool TABLE, int B, bool FULL>
QF_INLINE void float_half(const Panels& m, const Header& h, const F32& small, const uint8_t* const* planes, const float* values, int inputs,
                          int half, F32* sum) {
    const __m256 scale = part_f(h.scale, half), shift = part_f(h.shift, half), bias = _mm256_set1_ps(m.bias);
    const __m256 low = part_f(small, 0), high = part_f(small, 1);
    constexpr int chains = FULL ? kChains<BITS, B> : 1;
    __m256 acc[chains * B] = {};
#pragma GCC unroll 32
    for (int i = 0; i < (FULL ? 32 : inputs); i++) {
        const __m256i codes = half_codes<BITS, !TABLE || (BITS > 4)>(planes, i, half);
        __m256 w = !TABLE      ? _mm256_sub_ps(_mm256_cvtepi32_ps(codes), bias)
                   : BITS <= 4 ? lut16_half(low, high, codes)
                               : _mm256_i32gather_ps(m.table, codes, 4);
        if (!TABLE) w = m.offsets ? _mm256_add_ps(_mm256_mul_ps(scale, w), shift) : _mm256_sub_ps(w, shift);
#pragma GCC unroll 8
        for (int b = 0; b < B; b++) {
            __m256& part = acc[i % chains * B + b];
            part = _mm256_fmadd_ps(w, _mm256_set1_ps(values[kRun * b + i]), part);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < chains * B; i++) {
        __m256* to = (__m256*)(sum + i % B) + half;
        *to = _mm256_add_ps(*to, acc[i]);
    }
}

template <int BITS, bool TABLE, int B>
QF_INLINE void float_unit(const Panels& m, const Header& h, const F32& small, const uint8_t* const* planes, const float* values, int inputs,
                          F32* sum) {
    for (int half = 0; half < 2; half++) {
        if (inputs == 32) {
            float_half<BITS, TABLE, B, true>(m, h, small, planes, values, inputs, half, sum);
        } else {
            float_half<BITS, TABLE, B, false>(m, h, small, planes, values, inputs, half, sum);
        }
    }
}
