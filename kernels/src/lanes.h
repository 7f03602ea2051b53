// Lanes: the same computation on several blocks side by side, one block a lane. Sums run over the elements of a block
// in their order, so the number of lanes never changes a bit of the result. Internal linkage, see float16.h.
//
// `Floats` below is a vector type of the compiler, as wide as a register of the unit's instruction set, or Wide<> of
// one.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace quantmill {

using Floats4 = float __attribute__((vector_size(16)));  // every 64-bit machine has these registers

// Twice the lanes of `Part`: two registers whose sums do not wait for each other.
template <typename Part>
struct Wide {
    Part low, high;
};

#define QUANTMILL_WIDE_OPERATOR(op)                                                                              \
    template <typename Part>                                                                                     \
    static inline auto operator op(const Wide<Part>& a, const Wide<Part>& b) {                                   \
        return Wide<decltype(a.low op b.low)>{a.low op b.low, a.high op b.high};                                 \
    }                                                                                                            \
    template <typename Part>                                                                                     \
    static inline auto operator op(const Wide<Part>& a, float b) {                                               \
        return Wide<decltype(a.low op b)>{a.low op b, a.high op b};                                              \
    }                                                                                                            \
    template <typename Part>                                                                                     \
    static inline auto operator op(float a, const Wide<Part>& b) {                                               \
        return Wide<decltype(a op b.low)>{a op b.low, a op b.high};                                              \
    }
QUANTMILL_WIDE_OPERATOR(+)
QUANTMILL_WIDE_OPERATOR(-)
QUANTMILL_WIDE_OPERATOR(*)
QUANTMILL_WIDE_OPERATOR(/)
QUANTMILL_WIDE_OPERATOR(<)
QUANTMILL_WIDE_OPERATOR(>)
QUANTMILL_WIDE_OPERATOR(==)
QUANTMILL_WIDE_OPERATOR(!=)
#undef QUANTMILL_WIDE_OPERATOR

template <typename Part>
static inline Wide<Part> operator&(const Wide<Part>& a, const Wide<Part>& b) {
    return {a.low & b.low, a.high & b.high};
}
template <typename Part>
static inline Wide<Part> operator~(const Wide<Part>& a) {
    return {~a.low, ~a.high};
}
template <typename Part>
static inline Wide<Part> operator-(const Wide<Part>& a) {
    return {-a.low, -a.high};
}
template <typename Part>
static inline Wide<Part>& operator+=(Wide<Part>& a, const Wide<Part>& b) {
    return a = a + b;
}
template <typename Part>
static inline Wide<Part>& operator*=(Wide<Part>& a, const Wide<Part>& b) {
    return a = a * b;
}

// What a comparison gives: integers, -1 in the lanes where it holds.
template <typename Floats>
using MaskOf = decltype(Floats{} < Floats{});

template <typename Floats>
constexpr int lanes_of = sizeof(Floats) / sizeof(float);

template <typename Floats>
static inline Floats load(const float* values) {
    Floats lanes;
    std::memcpy(&lanes, values, sizeof lanes);
    return lanes;
}

template <typename Floats>
static inline void store(const Floats& lanes, float* values) {
    std::memcpy(values, &lanes, sizeof lanes);
}

template <typename Floats>
static inline Floats select(const MaskOf<Floats>& where, const Floats& yes, const Floats& no) {
    return where ? yes : no;
}
template <typename Part>
static inline Wide<Part> select(const Wide<MaskOf<Part>>& where, const Wide<Part>& yes, const Wide<Part>& no) {
    return {select<Part>(where.low, yes.low, no.low), select<Part>(where.high, yes.high, no.high)};
}

template <typename Floats>
static inline Floats absolute(const Floats& value) {
    return __builtin_bit_cast(Floats, __builtin_bit_cast(MaskOf<Floats>, value) & 0x7FFFFFFF);
}
template <typename Part>
static inline Wide<Part> absolute(const Wide<Part>& value) {
    return {absolute(value.low), absolute(value.high)};
}

template <typename Floats>
static inline Floats square_root(const Floats& value) {
    float roots[lanes_of<Floats>];
    store(value, roots);
    for (float& root : roots) root = std::sqrt(root);
    return load<Floats>(roots);
}

// nearest_int of each lane, clamped, as float.
template <typename Floats>
static inline Floats nearest_code(const Floats& value, float lowest, float highest) {
    using Ints = MaskOf<Floats>;
    const Ints bits = __builtin_bit_cast(Ints, value + 12582912.0f);
    const Floats nearest = __builtin_convertvector((bits & 0x007FFFFF) - 0x00400000, Floats);
    const Floats low = lowest - Floats{}, high = highest - Floats{};
    const Floats raised = nearest > low ? nearest : low;
    return raised < high ? raised : high;
}
template <typename Part>
static inline Wide<Part> nearest_code(const Wide<Part>& value, float lowest, float highest) {
    return {nearest_code(value.low, lowest, highest), nearest_code(value.high, lowest, highest)};
}

// Element i of each of the blocks at `values`, `n` apart, in turned[i].
template <typename Floats, int n>
static inline void turn(const float* values, Floats (&turned)[n]) {
    for (int i = 0; i < n; ++i) {
        float lanes[lanes_of<Floats>];
        for (int lane = 0; lane < lanes_of<Floats>; ++lane) lanes[lane] = values[n * lane + i];
        turned[i] = load<Floats>(lanes);
    }
}

}  // namespace quantmill
