#include "int8_affine.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <array>
#include <cstring>
#include <optional>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/families.h"
#include "bindings/checked_weights.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace quantmill {
namespace {

constexpr std::array<Choice<bool>, 2> signedness = {{{"int8", true}, {"uint8", false}}};

AffineAxis checked_axis(std::optional<int64_t> axis) {
    if (!axis) return AffineAxis::tensor;
    if (*axis != 0 && *axis != 1) refuse(text("axis must be None, 0 or 1, got ", *axis));
    return *axis == 0 ? AffineAxis::rows : AffineAxis::columns;
}

// `n` entries of int8 or uint8; `bytes` are copied where they are not the array's own.
template <typename Fill>
nb::object new_bytes(bool is_signed, std::initializer_list<size_t> shape, const Fill& fill) {
    if (is_signed) {
        const auto array = new_array<int8_t>(shape);
        fill(reinterpret_cast<uint8_t*>(array.data()));
        return nb::cast(array);
    }
    const auto array = new_array<uint8_t>(shape);
    fill(array.data());
    return nb::cast(array);
}

nb::tuple encode_array(nb::handle values, std::optional<int64_t> axis, bool symmetric, const std::string& dtype,
                       bool reduce_range, int64_t threads) {
    const AffineAxis along = checked_axis(axis);
    const Int8Rule rule = {symmetric, chosen(signedness, "dtype", dtype), reduce_range};
    const size_t n_threads = checked_threads(threads);
    const CheckedWeights checked(values);
    const Weights& weights = checked.weights;
    std::vector<AffineScale> affine(affine_scales(along, weights.rows, weights.cols));
    std::optional<RefusedWeight> refused;
    const nb::object codes = new_bytes(rule.is_signed, {weights.rows, weights.cols}, [&](uint8_t* bytes) {
        const GilReleased others_run;
        refused = encode_int8_affine(weights, along, rule, bytes, affine.data(), n_threads);
    });
    refuse_if(refused);
    const auto scale = new_array<float>({affine.size()});
    for (size_t i = 0; i < affine.size(); ++i) scale.data()[i] = affine[i].scale;
    const nb::object zero_point = new_bytes(rule.is_signed, {affine.size()}, [&](uint8_t* bytes) {
        for (size_t i = 0; i < affine.size(); ++i) bytes[i] = static_cast<uint8_t>(int(affine[i].zero_point));
    });
    return nb::make_tuple(codes, scale, zero_point);
}

struct Bytes {
    Array array;
    bool is_signed;

    const uint8_t* data() const { return static_cast<const uint8_t*>(array.data()); }
};

Bytes checked_bytes(nb::handle object, const char* what, size_t ndim) {
    const Array array = checked_array(object, what, ndim);
    const bool is_signed = array.dtype() == nb::dtype<int8_t>();
    if (!is_signed && array.dtype() != nb::dtype<uint8_t>()) {
        refuse_type(text(what, " must be int8 or uint8, got ", dtype_name(object)));
    }
    return {array, is_signed};
}

std::vector<AffineScale> checked_affine(nb::handle scale, nb::handle zero_point, bool is_signed, size_t needed) {
    const Array scales = checked_array_of<float>(scale, "scale", 1, "float32");
    const Bytes zero_points = checked_bytes(zero_point, "zero_point", 1);
    if (zero_points.is_signed != is_signed) refuse_type("zero_point must have the dtype of codes");
    if (scales.shape(0) != needed) refuse(text("scale must have ", needed, " entries, got ", scales.shape(0)));
    if (zero_points.array.shape(0) != needed) {
        refuse(text("zero_point must have ", needed, " entries, got ", zero_points.array.shape(0)));
    }
    std::vector<AffineScale> affine(needed);
    for (size_t i = 0; i < needed; ++i) {
        std::memcpy(&affine[i].scale, static_cast<const uint8_t*>(scales.data()) + i * sizeof(float), sizeof(float));
        const uint8_t byte = zero_points.data()[i];
        affine[i].zero_point = is_signed ? static_cast<int8_t>(byte) : byte;
    }
    return affine;
}

Matrix<float> decode_array(nb::handle codes, nb::handle scale, nb::handle zero_point, std::optional<int64_t> axis,
                           int64_t threads) {
    const AffineAxis along = checked_axis(axis);
    const size_t n_threads = checked_threads(threads);
    const Bytes bytes = checked_bytes(codes, "codes", 2);
    const size_t rows = bytes.array.shape(0), cols = bytes.array.shape(1);
    const std::vector<AffineScale> affine =
        checked_affine(scale, zero_point, bytes.is_signed, affine_scales(along, rows, cols));
    const Matrix<float> values(new_array<float>({rows, cols}));
    {
        const GilReleased others_run;
        decode_int8_affine(bytes.data(), affine.data(), along, bytes.is_signed, rows, cols, values.data(), n_threads);
    }
    return values;
}

}  // namespace

void add_int8_affine(nb::module_& m) {
    m.def("encode_int8_affine", encode_array, "values"_a, nb::kw_only(), "axis"_a = nb::none(), "symmetric"_a = true,
          "dtype"_a = "int8", "reduce_range"_a = false, "threads"_a = 1,
          nb::sig("def encode_int8_affine(values: numpy.typing.NDArray[typing.Any], *, axis: int | None = None, "
                  "symmetric: bool = True, dtype: str = 'int8', reduce_range: bool = False, threads: int = 1) "
                  "-> tuple[numpy.typing.NDArray[typing.Any], numpy.typing.NDArray[numpy.float32], "
                  "numpy.typing.NDArray[typing.Any]]"),
          R"(Quantize a matrix to 8-bit integers by ONNX Runtime's rules: codes (rows, cols), scale (n,), zero_point (n,).

value = scale * (code - zero_point). `axis` says what has a scale of its own: None the tensor (n = 1), 0 each row, 1 each
column. Codes and zero points are of `dtype`, "int8" or "uint8"; scale is float32. The range always holds 0;
`symmetric` widens it to both signs (the zero point is 0, or 128 for uint8). int8 takes -127 .. 127 symmetric, -128 .. 127
otherwise, uint8 0 .. 255; `reduce_range` scales for -64 .. 64 or 0 .. 127 but clamps to 8 bits. Codes round half to even.
A scale below the least normal float32 becomes 1 with the zero point 0. float16 and bfloat16 `values` give the bytes of
their float32 values. `values` as in encode_fp8.

Raises ValueError for a shape, a value or a name that does not fit, TypeError for a dtype.)");
    m.def("decode_int8_affine", decode_array, "codes"_a, "scale"_a, "zero_point"_a, nb::kw_only(),
          "axis"_a = nb::none(), "threads"_a = 1,
          nb::sig("def decode_int8_affine(codes: numpy.typing.NDArray[typing.Any], "
                  "scale: numpy.typing.NDArray[numpy.float32], zero_point: numpy.typing.NDArray[typing.Any], *, "
                  "axis: int | None = None, threads: int = 1) -> numpy.typing.NDArray[numpy.float32]"),
          R"(Values of 8-bit codes, (code - zero_point) * scale: float32 (rows, cols), from what encode_int8_affine gives.

Raises ValueError for a shape that does not fit, TypeError for a dtype.)");
}

}  // namespace quantmill
