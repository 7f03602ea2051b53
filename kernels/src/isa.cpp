#include "isa.h"

#include <stdexcept>
#include <string>

namespace quantmill {

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

bool machine_has(Isa isa) {
    switch (isa) {
        case Isa::scalar: return true;
#if defined(__x86_64__)
        case Isa::avx2:  // x86-64-v3
            return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
        case Isa::avx512:  // x86-64-v4
            return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                   __builtin_cpu_supports("avx512cd");
#elif defined(__aarch64__)
        case Isa::neon: return true;  // part of the base architecture
#endif
        default: return false;
    }
}

}  // namespace quantmill
