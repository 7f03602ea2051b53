// 16-bit floats to float32, and back, sixteen at a time. Internal linkage, see lanes.h.
#pragma once

#include <cstddef>

#include "float16.h"
#include "lanes.h"

namespace quantmill {
namespace {

inline Floats load_as_floats(const Half* stored) { return load_halves(stored); }
inline Floats load_as_floats(const Bfloat* stored) { return load_bfloats(stored); }

template <typename Stored>
inline void widen(const Stored* stored, size_t n, float* widened) {
    size_t i = 0;
    for (; i + lanes <= n; i += lanes) store(load_as_floats(stored + i), widened + i);
    for (; i < n; ++i) widened[i] = to_float(stored[i]);
}

inline void narrow(const float* values, size_t n, Half* stored) {
    size_t i = 0;
    for (; i + lanes <= n; i += lanes) store_halves(load(values + i), stored + i);
    for (; i < n; ++i) stored[i] = to_half(values[i]);
}

// As to_bfloat, on eight at a time.
inline void narrow(const float* values, size_t n, Bfloat* stored) {
    using Words = uint32_t __attribute__((vector_size(32)));
    using Halves = uint16_t __attribute__((vector_size(16)));
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        Words bits;
        std::memcpy(&bits, values + i, sizeof bits);
        const Words rounded = bits + 0x7FFFu + ((bits >> 16) & 1u), quiet = bits | 0x400000u;
        const Words upper = ((bits & 0x7FFFFFFFu) > 0x7F800000u ? quiet : rounded) >> 16;
        const Halves halves = __builtin_convertvector(upper, Halves);
        std::memcpy(stored + i, &halves, sizeof halves);
    }
    for (; i < n; ++i) stored[i] = to_bfloat(values[i]);
}

}  // namespace
}  // namespace quantmill
