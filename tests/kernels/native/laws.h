// Laws of the native code, built with AddressSanitizer and UndefinedBehaviorSanitizer by
// tests/kernels/test_sanitizers.py: no read or write outside the buffers, which have exactly the stated sizes; no
// undefined arithmetic; every instruction set gives the bytes and values of the scalar code.
#pragma once

#include <random>
#include <string>
#include <vector>

#include "isa.h"

namespace quantmill {

// Counts and prints a law that does not hold.
void expect(bool holds, const std::string& law);

// Heavy-tailed values.
std::vector<float> noise(std::mt19937& random, size_t n, float magnitude);

// The instruction sets of this build that this machine runs; the last one is scalar.
std::vector<Isa> runnable_isas();

// One function per family of formats.
void codec_laws();
void words_laws();

}  // namespace quantmill
