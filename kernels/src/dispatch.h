// From the instruction set of a run to the units that were compiled for it.
#pragma once

#include "isa.h"

namespace quantmill {

// pick.operator()<isa>(), for an instruction set that this build contains.
template <typename Pick>
decltype(auto) on(Isa isa, const Pick& pick) {
    switch (isa) {
#if defined(QUANTMILL_HAS_avx512)
        case Isa::avx512: return pick.template operator()<Isa::avx512>();
#endif
#if defined(QUANTMILL_HAS_avx2)
        case Isa::avx2: return pick.template operator()<Isa::avx2>();
#endif
#if defined(QUANTMILL_HAS_neon)
        case Isa::neon: return pick.template operator()<Isa::neon>();
#endif
        default: return pick.template operator()<Isa::scalar>();
    }
}

}  // namespace quantmill
