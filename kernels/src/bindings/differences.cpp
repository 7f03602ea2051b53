#include "differences.h"

#include "bindings/arrays.h"
#include "bindings/families.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace quantmill {
namespace {

size_t checked_length(const char* what, int64_t length) {
    if (length < 1) refuse(text(what, " must be at least 1, got ", length));
    return static_cast<size_t>(length);
}

double checked_share(const char* what, double share) {
    if (!(share >= 0.0)) refuse(text(what, " must not be negative, got ", share));
    return share;
}

nb::tuple compare_arrays(nb::handle values, nb::handle source, int64_t block, int64_t group, double relative,
                         double group_relative, double floor) {
    const Array found = checked_array_of<float>(values, "values", 1, "float32");
    const Array wanted = checked_array(source, "source", 1);
    const Source dtype = source_of(source, wanted);
    if (found.shape(0) != wanted.shape(0)) {
        refuse(text("values and source must have the same length, got ", found.shape(0), " and ", wanted.shape(0)));
    }
    const DifferenceBound bound = {checked_length("block", block), checked_length("group", group),
                                   checked_share("relative", relative), checked_share("group_relative", group_relative),
                                   checked_share("floor", floor)};
    if (bound.group % bound.block != 0) refuse(text("block must divide group, got ", block, " and ", group));
    Differences differences;
    {
        const GilReleased others_run;
        differences = compare(static_cast<const float*>(found.data()), dtype, wanted.data(), found.shape(0), bound);
    }
    return nb::make_tuple(differences.squared_error, differences.squared_source, differences.product,
                          static_cast<double>(differences.largest), differences.not_finite, differences.worst.start,
                          differences.worst.squares, differences.worst.allowed);
}

}  // namespace

void add_differences(nb::module_& m) {
    m.def("compare", compare_arrays, "values"_a.noconvert(), "source"_a.noconvert(), nb::kw_only(), "block"_a, "group"_a,
          "relative"_a, "group_relative"_a = 0.0, "floor"_a = 0.0,
          nb::sig("def compare(values: numpy.typing.NDArray[numpy.float32], source: numpy.typing.NDArray[typing.Any], *, "
                  "block: int, group: int, relative: float, group_relative: float = 0.0, floor: float = 0.0) -> "
                  "tuple[float, float, float, float, int, int, float, float]"),
          "Values (n,) beside those that they stand for, one pass over both.\n\n"
          "`source` is float32, float16 or bfloat16, n values too. Blocks of `block` values stand in groups of `group`; the "
          "last\nof each may be shorter. rms(values - source) of a block may be\n\n"
          "    relative * largest |source| of the block + group_relative * largest |source| of the group + floor\n\n"
          "Gives the sums of (values - source)^2, source^2 and values * source in float64, the largest |values - source|, how\n"
          "many values are not finite (then the sums are NaN), and of the block with the largest share of what it is "
          "allowed its\nfirst value, the sum of its squared differences and what it is allowed.\n\n"
          "Raises ValueError for lengths or bounds that do not fit, TypeError for a dtype.");
}

}  // namespace quantmill
