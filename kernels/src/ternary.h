// What TQ1_0 and TQ2_0 share: 256 values to the codes 0, 1, 2. Internal linkage, see lanes.h.
#pragma once

#include <cstdint>

#include "range_block.h"

namespace quantmill {
namespace {

// x = scale * (code - 1); halves round away from zero.
inline Half encode_ternary(const float* x, uint8_t (&codes)[256]) {
    const float absmax = range_of<256>(x).absmax();
    const Rounding rounding(absmax, 0.0f);
    for (int i = 0; i < 256; i += lanes) {
        const Floats scaled = load(x + i) * rounding.inverse;
        const Floats up = select(scaled < all(0.5f), Floats{}, all(1.0f));
        const Floats down = select(scaled > all(-0.5f), Floats{}, all(1.0f));
        store_bytes(up - down + 1.0f, codes + i);
    }
    return to_half(absmax);
}

}  // namespace
}  // namespace quantmill
