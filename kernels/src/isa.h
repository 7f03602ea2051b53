// Which instruction set runs: found once when the module loads, or forced by QUANTMILL_ISA.
#pragma once

#include <span>
#include <string_view>

namespace quantmill {

enum class Isa { scalar, avx2, avx512, neon };

const char* name(Isa isa);

// What this build contains, best first. The last one is scalar.
std::span<const Isa> built_isas();

// Whether this machine can run it, whatever this build contains.
bool machine_has(Isa isa);

// The best that the build and the machine have, or the one QUANTMILL_ISA names. Throws std::runtime_error if that one
// is unknown, not in this build or not on this machine; the choice is made once.
Isa isa_in_use();

}  // namespace quantmill
