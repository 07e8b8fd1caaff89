// The tables of an index, checked in one pass over each. What is wrong, and where, is said by columns.py and extents.py,
// which check the same with numpy when something is: here there are only answers.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace qformat {

// Words of a record (container/records.py).
enum Word { kNameOffset, kNameLength, kKind, kScheme, kDtype, kRank, kShape, kParameters = 14, kOrder = 18, kOffset, kLength,
            kStored, kFirstChunk, kChunks, kTarget, kReserved, kDigest, kWords = 32 };
constexpr uint64_t kDimensions = kParameters - kShape, kNoNumber = ~uint64_t{0};
enum Kind : uint64_t { kTensor, kAlias, kAttachment };

struct RecordLimits {
    uint64_t count, name, dimension, extent, schemes, chunk;
    double elements;
    const bool* dtypes;  // whether each number is that of a dtype
    size_t known;
};

// What is gathered of `count` records.
struct Gathered {
    uint64_t* starts;  // of the names, count + 1
    int32_t* rows;     // at each place of the execution order: the record, -1 while none is known
    bool* own;         // whether that has an extent of its own
    uint64_t* extents; // offset, length, stored, first_chunk of that: four rows of `count`
    uint64_t attached; // attachments so far
};

// Shape and kind of a record agree, and no number of it is beyond a limit.
inline bool is_record(const uint64_t* r, const RecordLimits& limits) {
    const bool attached = r[kKind] == kAttachment;
    if (r[kKind] > kAttachment || r[kReserved] || r[kDtype] >= limits.known || !limits.dtypes[r[kDtype]]) return false;
    if (attached ? r[kScheme] != kNoNumber : r[kScheme] > limits.schemes) return false;
    if (r[kKind] == kAlias ? r[kTarget] >= limits.count : r[kTarget] != kNoNumber) return false;
    if (r[kRank] > kDimensions || r[kLength] > limits.extent || r[kOrder] >= limits.count) return false;
    double elements = 1;
    for (uint64_t axis = 0; axis < kDimensions; axis++) {
        const uint64_t size = r[kShape + axis];
        if (size > limits.dimension || (size && axis >= r[kRank])) return false;
        elements *= static_cast<double>(std::max(size, uint64_t{1}));
    }
    if (elements > limits.elements || (attached && (r[kRank] != 1 || r[kShape] != r[kLength]))) return false;
    if (r[kChunks] != (r[kLength] + limits.chunk - 1) / limits.chunk) return false;
    return r[kNameLength] >= 1 && r[kNameLength] <= limits.name;
}

// How many of `n` records, the first of which is number `first`, are valid up to one that is not.
inline size_t check_records(const uint64_t* words, size_t n, size_t first, const RecordLimits& limits, Gathered& to) {
    for (size_t i = 0; i < n; i++) {
        const uint64_t* r = words + i * kWords;
        const size_t row = first + i;
        if (!is_record(r, limits) || r[kNameOffset] != to.starts[row]) return i;
        const uint64_t order = r[kOrder];
        if (to.rows[order] >= 0 || (to.attached && r[kKind] != kAttachment)) return i;
        to.attached += r[kKind] == kAttachment;
        to.starts[row + 1] = to.starts[row] + r[kNameLength];
        to.rows[order] = static_cast<int32_t>(row);
        to.own[order] = r[kKind] != kAlias;
        for (size_t field = 0; field < 4; field++) to.extents[field * limits.count + order] = r[kOffset + field];
    }
    return n;
}

struct ExtentRules {
    uint64_t begin, end, chunk, codecs, large, page, alignment;
};

constexpr uint64_t align(uint64_t at, uint64_t to) { return (at + to - 1) / to * to; }

// Whether the extents of checked records follow each other from `begin` to `end`, and the chunks fill them. A chunk is
// two words: stored length (32 bits) and codec, hash.
inline bool check_extents(const bool* own, const uint64_t* extents, size_t count, const uint64_t* chunks, size_t most,
                          const ExtentRules& rules) {
    uint64_t chunk = 0, at = rules.begin;
    for (size_t place = 0; place < count; place++) {
        if (!own[place]) continue;
        const uint64_t offset = extents[place], length = extents[count + place], stored = extents[2 * count + place];
        if (extents[3 * count + place] != chunk) return false;
        uint64_t sum = 0;
        for (uint64_t done = 0; done < length; done += rules.chunk, chunk++) {
            if (chunk >= most) return false;
            const uint64_t raw = std::min(length - done, rules.chunk), size = chunks[2 * chunk] & 0xFFFFFFFF, codec = chunks[2 * chunk] >> 32;
            if (codec > rules.codecs || (codec ? size == 0 || size >= raw : size != raw)) return false;
            sum += size;
        }
        if (stored != sum || offset > rules.end || stored > rules.end - offset) return false;
        if (offset != align(at, length >= rules.large ? rules.page : rules.alignment)) return false;
        at = offset + stored;
    }
    return chunk == most && align(at, rules.alignment) == rules.end;
}

}  // namespace qformat
