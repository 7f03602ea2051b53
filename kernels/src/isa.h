// Which instruction set runs: found once when the module loads, or forced by QUANTMILL_ISA.
#pragma once

#include <string_view>

namespace quantmill {

enum class Isa { scalar, avx2, avx512, neon };

inline constexpr Isa isas[] = {Isa::scalar, Isa::avx2, Isa::avx512, Isa::neon};

const char* name(Isa isa);

// The name as written in QUANTMILL_ISA; throws std::runtime_error for any other word.
Isa isa_named(std::string_view word);

// Whether this machine can run it, whatever this build contains.
bool machine_has(Isa isa);

}  // namespace quantmill
