// The instruction set this translation unit is compiled for. Every file in a folder (but bindings/) is compiled once per
// instruction set, with its flags; what it defines is the specialisation for `unit`, all else has internal linkage.
#pragma once

#include "isa.h"

namespace quantmill {

constexpr Isa unit = Isa::QUANTMILL_UNIT;

}  // namespace quantmill
