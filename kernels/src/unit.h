// The instruction set this translation unit is compiled for. Every file of formats/ is compiled once per column of the
// table, with that column's flags; what it defines is the specialisation for `unit`, all else has internal linkage.
#pragma once

#include "isa.h"

namespace quantmill {

constexpr Isa unit = Isa::QUANTMILL_UNIT;

}  // namespace quantmill
