#include "hqq.h"

#include <algorithm>
#include <atomic>
#include <iterator>
#include <memory>

#include "dispatch.h"
#include "threads.h"

namespace quantmill {
namespace {

constexpr size_t groups_at_once = std::size(HqqLine{}.values);
constexpr size_t values_per_range = 65536;  // work is handed to threads in ranges of about this many values

size_t grain(size_t values) { return std::max<size_t>(1, values_per_range / std::max<size_t>(1, values)); }

const HalfQuadratic& solver() {
    return on(isa_in_use(), []<Isa isa>() -> const HalfQuadratic& { return half_quadratic<isa>(); });
}

const RowPacker& packer() {
    return on(isa_in_use(), []<Isa isa>() -> const RowPacker& { return row_packer<isa>(); });
}

const SourceReader& reader() {
    return on(isa_in_use(), []<Isa isa>() -> const SourceReader& { return source_reader<isa>(); });
}

std::optional<HqqRefused> first_unstorable(const HqqGroups& groups, float largest) {
    constexpr size_t stride = 4096;
    const size_t n = groups.count * groups.size, bytes = size_of(groups.source);
    float widened[stride];
    for (size_t first = 0; first < n; first += stride) {
        const size_t length = std::min(stride, n - first);
        reader().widen(groups.source, static_cast<const uint8_t*>(groups.values) + first * bytes, length, widened);
        const size_t bad = reader().first_unstorable(widened, length, largest);
        if (bad < length) return HqqRefused{first + bad, widened[bad]};
    }
    return std::nullopt;
}

}  // namespace

std::optional<HqqRefused> solve_hqq(const HqqGroups& groups, const HqqSettings& settings, const HqqResult& result,
                                    size_t threads) {
    if (groups.size == 0) return std::nullopt;
    const size_t batches = (groups.count + groups_at_once - 1) / groups_at_once;
    std::atomic<bool> refused{false};
    for_rows(batches, grain(groups_at_once * groups.size), threads, [&](size_t first, size_t last) {
        const auto lines = std::make_unique_for_overwrite<HqqLine[]>(groups.size);
        const auto widened = std::make_unique_for_overwrite<float[]>(groups_at_once * groups.size);
        const size_t end = std::min(groups.count, last * groups_at_once);
        const HqqScratch scratch{lines.get(), widened.get()};
        const bool solved = solver().solve(groups, settings, first * groups_at_once, end, scratch, result);
        if (!solved) refused.store(true, std::memory_order_relaxed);
        return solved;
    });
    if (!refused) return std::nullopt;
    return first_unstorable(groups, largest_hqq_value(settings.compute_dtype));
}

void decode_hqq(const HqqStored& stored, int axis, size_t lines, size_t length, float* values, size_t threads) {
    for_rows(lines, grain(length), threads, [&](size_t first, size_t last) {
        solver().reconstruct(stored, axis, length, first, last, values);
        return true;
    });
}

const RowPacking* find_row_packing(std::string_view name) {
    const auto found = std::ranges::find(row_packings, name, &RowPacking::name);
    return found == std::end(row_packings) ? nullptr : found;
}

std::optional<size_t> pack_rows(const PackedRows& shape, const uint8_t* codes, uint8_t* packed, size_t threads) {
    std::atomic<bool> refused{false};
    for_rows(shape.packed_rows, grain(shape.cols * shape.packing->parts), threads, [&](size_t first, size_t last) {
        const bool fits = packer().pack(shape, codes, first, last, packed);
        if (!fits) refused.store(true, std::memory_order_relaxed);
        return fits;
    });
    if (!refused) return std::nullopt;
    const auto too_large = [&](uint8_t code) { return code >> shape.packing->bits != 0; };
    return std::find_if(codes, codes + shape.rows * shape.cols, too_large) - codes;
}

void unpack_rows(const PackedRows& shape, const uint8_t* packed, uint8_t* codes, size_t threads) {
    for_rows(shape.packed_rows, grain(shape.cols * shape.packing->parts), threads, [&](size_t first, size_t last) {
        packer().unpack(shape, packed, first, last, codes);
        return true;
    });
}

}  // namespace quantmill
