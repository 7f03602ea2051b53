#include "isa.h"

#include <stdexcept>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace quantmill {
namespace {

#if defined(__x86_64__)
// Clang 14 does not know "f16c" as a feature to ask for by name.
bool has_f16c() {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

}  // namespace

const char* name(Isa isa) {
    switch (isa) {
        case Isa::scalar: return "scalar";
        case Isa::avx2:   return "avx2";
        case Isa::avx512: return "avx512";
        case Isa::neon:   return "neon";
    }
    return "unknown";
}

Isa isa_named(std::string_view word) {
    for (const Isa isa : isas) {
        if (word == name(isa)) return isa;
    }
    throw std::runtime_error("QUANTMILL_ISA=" + std::string(word) + " is none of scalar, avx2, avx512, neon");
}

// What is asked for here is what CMakeLists.txt compiles the units for. __builtin_cpu_supports also asks the system (by
// XGETBV) whether it saves the wide registers when it switches threads.
bool machine_has(Isa isa) {
    switch (isa) {
        case Isa::scalar: return true;
#if defined(__x86_64__)
        case Isa::avx2:
            return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
        case Isa::avx512:
            return machine_has(Isa::avx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                   __builtin_cpu_supports("avx512cd");
#elif defined(__aarch64__)
        case Isa::neon: return true;  // part of the base architecture
#endif
        default: return false;
    }
}

}  // namespace quantmill
