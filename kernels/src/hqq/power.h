// Powers in plain multiplications and additions, so that every instruction set gives the same bits. Internal linkage,
// see lanes.h.
#pragma once

#include <cstring>

#include "lanes.h"

namespace quantmill {
namespace {

// The bits of a register as integers, and back.
template <typename To, typename From>
inline To same_bits(const From& from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

// x^exponent for x in 2^-126 .. 2^126 and exponents in -1 .. 1, to a relative 1e-5; to 1e-6 for x in 2^-16 .. 2^16.
template <typename Register>
inline Register power(const Register& x, float exponent) {
    using Ints = MaskOf<Register>;
    constexpr int root_of_half = 0x3F3504F3;  // mantissas are taken from sqrt(1/2) .. sqrt(2), around 1
    const Ints bits = same_bits<Ints>(x), exponents = (bits - root_of_half) & (-1 << 23);
    const Register mantissa = same_bits<Register>(bits - exponents);

    // log2 m = 2 / ln 2 * artanh s, s = (m - 1) / (m + 1), |s| < 0.172
    const Register s = (mantissa - 1.0f) / (mantissa + 1.0f), s2 = s * s;
    const Register log2_of_mantissa =
        s * (2.88539008f + s2 * (0.961796694f + s2 * (0.577078016f + s2 * (0.412198583f + s2 * 0.320598898f))));

    const Register halvings = __builtin_convertvector(exponents >> 23, Register);
    const Register logarithm = exponent * (halvings + log2_of_mantissa);
    const Register whole = nearest(logarithm), part = logarithm - whole;
    // 2^part = sum (part ln 2)^k / k!, |part| <= 1/2
    const Register fraction =
        1.0f + part * (0.693147181f + part * (0.240226507f + part * (0.0555041087f + part * (0.00961812911f +
                           part * (0.00133335581f + part * 0.000154035304f)))));
    return same_bits<Register>((__builtin_convertvector(whole, Ints) + 127) << 23) * fraction;
}

template <typename Part>
inline Wide<Part> power(const Wide<Part>& x, float exponent) {
    return {power(x.low, exponent), power(x.high, exponent)};
}

}  // namespace
}  // namespace quantmill
