// Laws of the native code, which tests/kernels/test_sanitizers.py builds with sanitizers and portability.sh with other
// compilers: no read or write outside the buffers, which have exactly the stated sizes; no
// undefined arithmetic; every instruction set gives the bytes and values of the scalar code.
#pragma once

#include <random>
#include <string>
#include <vector>

#include "isa.h"

namespace quantmill {

// Counts and prints a law that does not hold; any thread may.
void expect(bool holds, const std::string& law);

// Prints how many laws are broken; what main returns.
int report();

// Heavy-tailed values.
std::vector<float> noise(std::mt19937& random, size_t n, float magnitude);

// The instruction sets of this build that this machine runs; the last one is scalar.
std::vector<Isa> runnable_isas();

// One function per family of formats.
void codec_laws();
void bitsandbytes_laws();
void words_laws();
void small_float_laws();
void gptq_laws();
void hqq_laws();
void difference_laws();

// ThreadSanitizer sees these too.
void thread_laws();

}  // namespace quantmill
