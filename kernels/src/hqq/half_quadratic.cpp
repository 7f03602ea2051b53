#include "hqq/half_quadratic.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "float16.h"
#include "hqq/power.h"
#include "lanes.h"
#include "unit.h"

namespace quantmill {
namespace {

static_assert(sizeof(HqqLine) == lanes * sizeof(float));

// ---- what the compute dtype can hold ----

struct Limits {
    float least_scale, largest_scale;
    float largest_zero;  // above it zeros are further apart than 1
};

constexpr Limits limits_of(Source compute_dtype) {
    switch (compute_dtype) {
        case Source::float16: return {0x1p-19f, 65504.0f, 0x1p+10f};
        case Source::bfloat16: return {0x1p-100f, 0x1p+101f, 0x1p+7f};
        default: return {0x1p-100f, 0x1p+101f, 0x1p+23f};
    }
}

// Rounded to the compute dtype, and back. bfloat16 by Veltkamp's splitting: 8 bits of the mantissa stay.
Floats as_stored(const Floats& value, Source compute_dtype) {
    if (compute_dtype == Source::float16) return as_half(value);
    if (compute_dtype == Source::float32) return value;
    const Floats spread = value * 65537.0f;
    return spread - (spread - value);
}

// ---- sixteen groups ----

struct Batch {
    const HqqLine* lines;
    size_t n;  // values in a group
    Floats top;  // the largest code
    Floats low, high, mean;
    bool storable;
};

Floats value(const Batch& batch, size_t i) { return load(batch.lines[i].values); }

// Long groups are summed in chunks of this many values, so that the sums stay exact to a few last places.
constexpr size_t chunk = 512;

template <typename Sums, typename Add>
inline Sums summed(size_t n, const Add& add) {
    Sums total{};
    for (size_t first = 0; first < n; first += chunk) {
        const size_t last = n - first < chunk ? n : first + chunk;
        Sums sums{};
        for (size_t i = first; i < last; ++i) add(i, sums);
        total += sums;
    }
    return total;
}

Batch measured(const HqqLine* lines, size_t n, const HqqSettings& settings) {
    Batch batch{lines, n, all(static_cast<float>((1 << settings.nbits) - 1)), load(lines[0].values),
                load(lines[0].values), Floats{}, true};
    Floats differences{};  // x - x: 0, or NaN once a value is not finite
    const Floats sum = summed<Floats>(n, [&](size_t i, Floats& part) {
        const Floats x = value(batch, i);
        batch.low = smaller(x, batch.low);
        batch.high = larger(x, batch.high);
        differences += x - x;
        part += x;
    });
    batch.mean = sum / static_cast<float>(n);
    float largest[lanes], difference[lanes];
    store(larger(-batch.low, batch.high), largest);
    store(differences, difference);
    for (int lane = 0; lane < lanes; ++lane) {
        batch.storable &= difference[lane] == 0.0f && largest[lane] <= largest_hqq_value(settings.compute_dtype);
    }
    return batch;
}

bool any(const Mask& mask) {
    return largest_lane(select(mask, all(1.0f), Floats{})) > 0.0f;
}

// ---- least squares: x ~ origin + scale * code ----

struct Fit {
    Floats scale, origin;
};

// Over the values of a group: codes q, and what they leave, d = (x - origin) / scale - q. Of what is left, not of x:
// with many bits the differences between fits drown in the rounding of sums of x.
struct Sums {
    Floats q, qq, d, dq, dd;
    Sums& operator+=(const Sums& other) {
        q += other.q;
        qq += other.qq;
        d += other.d;
        dq += other.dq;
        dd += other.dd;
        return *this;
    }
};

inline void add(const Floats& code, const Floats& rest, Sums& sums) {
    sums.q += code;
    sums.qq += code * code;
    sums.d += rest;
    sums.dq += rest * code;
    sums.dd += rest * rest;
}

inline Floats code_at(const Floats& position, const Floats& top) {
    return nearest(smaller(larger(position, Floats{}), top));
}

Sums sums_on(const Batch& batch, const Floats& origin, const Floats& inverse) {
    return summed<Sums>(batch.n, [&](size_t i, Sums& sums) {
        const Floats position = (value(batch, i) - origin) * inverse;
        const Floats code = code_at(position, batch.top);
        add(code, position - code, sums);
    });
}

struct Candidate {
    Fit fit;
    Floats error;  // squared, in steps of the fit that it improves
    Mask usable;
};

// The line through (q, q + d): q + d ~ (1 + slope) q + shift.
Candidate fitted_freely(const Sums& sums, float n, const Fit& fit) {
    const Floats determinant = n * sums.qq - sums.q * sums.q;
    const Floats slope = (n * sums.dq - sums.d * sums.q) / determinant;
    const Floats shift = (sums.d - slope * sums.q) * (1.0f / n);
    const Floats error = sums.dd - slope * sums.dq - shift * sums.d;
    // Below that the determinant is rounding noise: all codes are equal.
    return {{fit.scale + slope * fit.scale, fit.origin + shift * fit.scale}, error,
            determinant > 1e-6f * (n * sums.qq)};
}

// The same with the zero rounded to a code z first: q + d - z ~ (1 + slope) (q - z).
Candidate fitted_to_a_code(const Sums& sums, float n, const Fit& fit, const Floats& top) {
    const Floats old_zero = nearest(-fit.origin / fit.scale);
    const Candidate free = fitted_freely(sums, n, fit);
    const Floats zero = code_at(select(free.usable, -free.fit.origin / free.fit.scale, old_zero), top);
    const Floats move = zero - old_zero;
    const Floats ww = sums.qq - 2.0f * zero * sums.q + n * zero * zero;
    const Floats dw = sums.dq - zero * sums.d + move * (sums.q - n * zero);
    const Floats slope = dw / ww;
    const Floats scale = fit.scale + slope * fit.scale;
    const Floats error = sums.dd + move * (2.0f * sums.d + n * move) - slope * dw;
    return {{scale, -zero * scale}, error, ww > Floats{}};
}

struct Search {
    const Batch& batch;
    const HqqSettings& settings;
    const Limits limits;
};

Candidate fitted(const Search& search, const Sums& sums, const Fit& fit) {
    const float n = static_cast<float>(search.batch.n);
    Candidate candidate = search.settings.integer_zero ? fitted_to_a_code(sums, n, fit, search.batch.top)
                                                       : fitted_freely(sums, n, fit);
    const Floats& scale = candidate.fit.scale;
    candidate.usable = candidate.usable & (scale > all(search.limits.least_scale)) &
                       (scale < all(search.limits.largest_scale)) &
                       (absolute(candidate.fit.origin) < 2.0f * search.limits.largest_zero * scale);
    return candidate;
}

// ---- the search ----

// Where a group's zero may be any number it begins at its least value. Where zeros are codes 0 must lie in its range.
struct Range {
    Floats low, high;
    Floats scale;  // of codes spread over it
};

Range range_of(const Search& search) {
    const Batch& batch = search.batch;
    const bool holds_zero = search.settings.integer_zero;
    const Floats low = holds_zero ? smaller(batch.low, Floats{}) : batch.low;
    const Floats high = holds_zero ? larger(batch.high, Floats{}) : batch.high;
    const Floats scale = larger((high - low) / batch.top, larger(-low, high) * (1.0f / search.limits.largest_zero));
    return {low, high, larger(scale, all(search.limits.least_scale))};
}

Floats starting_origin(const Search& search, const Range& range, const Floats& scale) {
    if (!search.settings.integer_zero) return range.low;
    const Floats& top = search.batch.top;
    return -scale * code_at(0.5f * (top - (range.low + range.high) / scale), top);
}

constexpr float starts[] = {-0.4f, 0.1f, 0.6f, 1.1f};  // steps by which a start's range is shorter than the group's
constexpr float enough = 1.0f - 0x1p-10f;              // a fit that lowers the error by less ends the search

struct Best {
    Fit fit;
    Floats error;  // squared, in steps of the range's scale
};

// Replaces `best` where refitting on the codes of `fit` lowers the error; says where.
Mask keep_better(const Search& search, const Fit& fit, const Floats& inverse, const Floats& unit_inverse, Best& best) {
    const Candidate candidate = fitted(search, sums_on(search.batch, fit.origin, inverse), fit);
    const Floats step = fit.scale * unit_inverse;
    const Floats error = candidate.error * step * step;
    const Mask better = candidate.usable & (error < best.error);
    best.fit.scale = select(better, candidate.fit.scale, best.fit.scale);
    best.fit.origin = select(better, candidate.fit.origin, best.fit.origin);
    best.error = select(better, error * enough, best.error);
    return better;
}

Fit least_squares(const Search& search) {
    const Range range = range_of(search);
    const Floats unit_inverse = 1.0f / range.scale;
    const float top = static_cast<float>((1 << search.settings.nbits) - 1);
    Best best{{range.scale, starting_origin(search, range, range.scale)},
              all(std::numeric_limits<float>::infinity())};
    for (const float shorter : starts) {
        const float finer = (top + shorter) / top;
        const Floats scale = range.scale * (1.0f / finer);
        keep_better(search, {scale, starting_origin(search, range, scale)}, unit_inverse * finer, unit_inverse, best);
    }
    for (int round = 0; round < search.settings.iters; ++round) {
        const Fit fit = best.fit;
        if (!any(keep_better(search, fit, 1.0f / fit.scale, unit_inverse, best))) break;
    }
    return best.fit;
}

// ---- half-quadratic splitting: the error |x - x'|^p ----

// Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models": what is left, r, is split into
// e = shrink(r) and the rest, and the fit is one of least squares to x - e. Here scale and zero are fitted, not zero
// alone, and the round with the least error is kept.
struct Shrunk {
    Sums sums;
    Floats error;
    Shrunk& operator+=(const Shrunk& other) {
        sums += other.sums;
        error += other.error;
        return *this;
    }
};

Shrunk shrunk_on(const Batch& batch, const Fit& fit, float lp_norm, float beta) {
    const Floats inverse = 1.0f / fit.scale;
    return summed<Shrunk>(batch.n, [&](size_t i, Shrunk& total) {
        const Floats position = (value(batch, i) - fit.origin) * inverse;
        const Floats code = code_at(position, batch.top), rest = position - code;
        const Floats magnitude = larger(absolute(rest) * fit.scale, all(0x1p-126f));
        const Floats slope = power(magnitude, lp_norm - 1.0f);
        const Floats shrunk = larger(magnitude - slope * (1.0f / beta), Floats{}) * inverse;
        add(code, rest - select(rest < Floats{}, -shrunk, shrunk), total.sums);
        total.error += magnitude * slope;
    });
}

// Shrinking leaves nothing of |r| <= beta^(-1 / (2 - p)); groups whose values all lie that near stay as they are.
Mask reach_the_shrinking(const Search& search, const Fit& fit) {
    const Batch& batch = search.batch;
    const Floats reach = power(all(search.settings.beta), -1.0f / (2.0f - search.settings.lp_norm));
    const Floats outside = larger(fit.origin - batch.low, batch.high - (fit.origin + fit.scale * batch.top));
    return larger(outside, 0.5f * fit.scale) > reach;
}

Fit split(const Search& search, const Fit& start) {
    Mask improving = reach_the_shrinking(search, start);
    Fit fit = start, best = start;
    Floats least = all(std::numeric_limits<float>::infinity());
    float beta = search.settings.beta;
    for (int round = 0; round <= search.settings.iters && any(improving); ++round) {
        const Shrunk shrunk = shrunk_on(search.batch, fit, search.settings.lp_norm, beta);
        improving = improving & (shrunk.error < least);
        least = select(improving, shrunk.error * enough, least);
        best.scale = select(improving, fit.scale, best.scale);
        best.origin = select(improving, fit.origin, best.origin);
        const Candidate next = fitted(search, shrunk.sums, fit);
        fit.scale = select(next.usable, next.fit.scale, fit.scale);
        fit.origin = select(next.usable, next.fit.origin, fit.origin);
        beta *= search.settings.kappa;
    }
    return best;
}

// ---- what is stored ----

struct Stored {
    float scale[lanes], zero[lanes];
};

// A scale moves as it is rounded; the zero follows it, so that the mean of the group keeps its place.
Stored stored(const Search& search, const Fit& fit) {
    const Source dtype = search.settings.compute_dtype;
    const Floats& mean = search.batch.mean;
    Floats scale = as_stored(fit.scale, dtype);
    Floats zero = search.settings.integer_zero ? nearest(-fit.origin / fit.scale)
                                               : as_stored((mean - fit.origin) / fit.scale - mean / scale, dtype);
    // A group of one value c is (1 - 0) * c or (0 - 1) * -c, exact; one of zeros (0 - 0) * 1.
    const Floats size = absolute(search.batch.low);
    const Mask constant = (search.batch.high - search.batch.low < all(std::numeric_limits<float>::min()));
    const Mask large = size > all(search.limits.least_scale);
    scale = select(constant, select(large, as_stored(size, dtype), all(1.0f)), scale);
    zero = select(constant, select(large & (search.batch.low < Floats{}), all(1.0f), Floats{}), zero);
    Stored both;
    store(scale, both.scale);
    store(zero, both.zero);
    return both;
}

// ---- from and to the matrix ----

// The values of groups [first, first + count), one after the other: in place if they are float32, else widened.
const float* in_one_piece(const HqqGroups& groups, size_t first, size_t count, float* widened) {
    const size_t bytes = size_of(groups.source);
    const void* const values = static_cast<const uint8_t*>(groups.values) + first * groups.size * bytes;
    const bool in_place = groups.source == Source::float32 && reinterpret_cast<uintptr_t>(values) % alignof(float) == 0;
    if (in_place) return static_cast<const float*>(values);
    source_reader<unit>().widen(groups.source, values, count * groups.size, widened);
    return widened;
}

// The lanes above `count` repeat the last group.
void turn_groups(const float* values, size_t count, size_t size, HqqLine* lines) {
    const float* of_lane[lanes];
    for (size_t lane = 0; lane < lanes; ++lane) of_lane[lane] = values + size * (lane < count ? lane : count - 1);
    size_t i = 0;
    for (; i + 8 <= size; i += 8) {
        Floats turned[8];
        turn(of_lane, turned);
        for (size_t k = 0; k < 8; ++k) store(turned[k], lines[i + k].values);
        for (const float*& start : of_lane) start += 8;
    }
    for (; i < size; ++i) {
        for (int lane = 0; lane < lanes; ++lane) lines[i].values[lane] = *of_lane[lane]++;
    }
}

void widen_columns(const HqqGroups& groups, size_t first, size_t count, HqqLine* lines) {
    const size_t bytes = size_of(groups.source);
    for (size_t i = 0; i < groups.size; ++i) {
        const void* const values = static_cast<const uint8_t*>(groups.values) + (i * groups.count + first) * bytes;
        source_reader<unit>().widen(groups.source, values, count, lines[i].values);
        for (size_t lane = count; lane < lanes; ++lane) lines[i].values[lane] = lines[i].values[count - 1];
    }
}

// Sixteen codes, of which `count` are wanted.
void store_codes(const Floats& codes, size_t count, uint8_t* bytes) {
    if (count >= lanes) return store(bytes_of(codes), bytes);
    uint8_t sixteen[lanes];
    store(bytes_of(codes), sixteen);
    std::memcpy(bytes, sixteen, count);
}

Floats stored_code(const Floats& x, const Floats& inverse, const Floats& zero, const Floats& top) {
    return code_at(x * inverse + zero, top);
}

void write_rows(const float* values, const Batch& batch, const Stored& stored, size_t count, uint8_t* codes) {
    for (size_t lane = 0; lane < count; ++lane) {
        const Floats inverse = all(1.0f / stored.scale[lane]), zero = all(stored.zero[lane]);
        const float* const row = values + lane * batch.n;
        size_t i = 0;
        for (; i + lanes <= batch.n; i += lanes) {
            store(bytes_of(stored_code(load(row + i), inverse, zero, batch.top)), codes + lane * batch.n + i);
        }
        if (i == batch.n) continue;
        float rest[lanes] = {};
        std::memcpy(rest, row + i, (batch.n - i) * sizeof(float));
        store_codes(stored_code(load(rest), inverse, zero, batch.top), batch.n - i, codes + lane * batch.n + i);
    }
}

void write_columns(const Batch& batch, const Stored& stored, size_t count, size_t stride, uint8_t* codes) {
    const Floats inverse = 1.0f / load(stored.scale), zero = load(stored.zero);
    for (size_t i = 0; i < batch.n; ++i) {
        store_codes(stored_code(value(batch, i), inverse, zero, batch.top), count, codes + i * stride);
    }
}

bool solve_sixteen(const HqqGroups& groups, const HqqSettings& settings, size_t first, size_t count,
                   const HqqScratch& scratch, const HqqResult& result) {
    const float* values = nullptr;
    if (groups.axis == 1) {
        values = in_one_piece(groups, first, count, scratch.widened);
        turn_groups(values, count, groups.size, scratch.lines);
    } else {
        widen_columns(groups, first, count, scratch.lines);
    }
    const Batch batch = measured(scratch.lines, groups.size, settings);
    if (!batch.storable) return false;
    const Search search{batch, settings, limits_of(settings.compute_dtype)};
    const Stored chosen = stored(search, split(search, least_squares(search)));
    std::memcpy(result.scale + first, chosen.scale, count * sizeof(float));
    std::memcpy(result.zero + first, chosen.zero, count * sizeof(float));
    if (groups.axis == 1) {
        write_rows(values, batch, chosen, count, result.codes + first * groups.size);
    } else {
        write_columns(batch, chosen, count, groups.count, result.codes + first);
    }
    return true;
}

bool solve(const HqqGroups& groups, const HqqSettings& settings, size_t first, size_t last, const HqqScratch& scratch,
           const HqqResult& result) {
    for (; first < last; first += lanes) {
        const size_t count = last - first < lanes ? last - first : lanes;
        if (!solve_sixteen(groups, settings, first, count, scratch, result)) return false;
    }
    return true;
}

void reconstruct(const HqqStored& stored, int axis, size_t length, size_t first, size_t last, float* values) {
    for (size_t line = first; line < last; ++line) {
        const uint8_t* const codes = stored.codes + line * length;
        float* const out = values + line * length;
        if (axis == 1) {
            const float scale = stored.scale[line], zero = stored.zero[line];
            for (size_t i = 0; i < length; ++i) out[i] = (static_cast<float>(codes[i]) - zero) * scale;
        } else {
            for (size_t i = 0; i < length; ++i) {
                out[i] = (static_cast<float>(codes[i]) - stored.zero[i]) * stored.scale[i];
            }
        }
    }
}

constexpr HalfQuadratic table = {solve, reconstruct};

}  // namespace

template <>
const HalfQuadratic& half_quadratic<unit>() {
    return table;
}

}  // namespace quantmill
