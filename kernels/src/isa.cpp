#include "isa.h"

#include <algorithm>
#include <array>
#include <cstdlib>
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

constexpr std::array every_isa = {Isa::scalar, Isa::avx2, Isa::avx512, Isa::neon};

constexpr std::array built = {  // QUANTMILL_HAS_<isa>: CMakeLists.txt compiles the units of that instruction set
#if defined(QUANTMILL_HAS_avx512)
    Isa::avx512,
#endif
#if defined(QUANTMILL_HAS_avx2)
    Isa::avx2,
#endif
#if defined(QUANTMILL_HAS_neon)
    Isa::neon,
#endif
    Isa::scalar,
};

std::string names_of(std::span<const Isa> isas) {
    std::string names;
    for (const Isa isa : isas) names += (names.empty() ? "" : ", ") + std::string(name(isa));
    return names;
}

Isa forced_isa(const std::string& word) {
    const std::string request = "QUANTMILL_ISA=" + word;
    const auto isa = std::ranges::find(every_isa, word, name);
    if (isa == every_isa.end()) throw std::runtime_error(request + " is none of " + names_of(every_isa));
    if (std::ranges::find(built, *isa) == built.end()) {
        throw std::runtime_error(request + " is not in this build of quantmill_kernels, which has: " + names_of(built));
    }
    if (!machine_has(*isa)) throw std::runtime_error(request + ": this machine lacks these instructions");
    return *isa;
}

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

std::span<const Isa> built_isas() { return built; }

Isa isa_in_use() {
    static const Isa chosen = [] {
        const char* const word = std::getenv("QUANTMILL_ISA");
        return word == nullptr || *word == '\0' ? *std::ranges::find_if(built, machine_has) : forced_isa(word);
    }();
    return chosen;
}

}  // namespace quantmill
