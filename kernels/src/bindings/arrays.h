// What the bindings share: arrays from Python checked and arrays given to it, and the words of refusals.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <type_traits>

#include "formats/source.h"

namespace quantmill {

using Array = nanobind::ndarray<nanobind::ro, nanobind::device::cpu>;
template <typename Scalar>
using Vector = nanobind::ndarray<nanobind::numpy, Scalar, nanobind::ndim<1>>;
template <typename Scalar>
using Matrix = nanobind::ndarray<nanobind::numpy, Scalar, nanobind::ndim<2>>;

template <typename... Parts>
std::string text(const Parts&... parts) {
    std::string whole;
    const auto append = [&whole](const auto& part) {
        if constexpr (std::is_arithmetic_v<std::decay_t<decltype(part)>>) {
            whole += std::to_string(part);
        } else {
            whole += part;
        }
    };
    (append(parts), ...);
    return whole;
}

// The fewest digits that are this float32 and no other.
std::string text_of(float value);

// ValueError and TypeError.
[[noreturn]] void refuse(const std::string& message);
[[noreturn]] void refuse_type(const std::string& message);

std::string dtype_name(nanobind::handle array);

// `object` as an array of `ndim` dimensions in C order. ml_dtypes' bfloat16, which no exchange protocol of numpy
// carries, is viewed as its bits.
Array checked_array(nanobind::handle object, const char* what, size_t ndim);

// The same, of one dtype.
template <typename Scalar>
Array checked_array_of(nanobind::handle object, const char* what, size_t ndim, const char* dtype) {
    const Array array = checked_array(object, what, ndim);
    if (array.dtype() != nanobind::dtype<Scalar>()) {
        refuse_type(text(what, " must be ", dtype, ", got ", dtype_name(object)));
    }
    return array;
}

// The dtype of `values`, whose array is `array`; refuses all but float32, float16, bfloat16 and its bits as uint16.
Source source_of(nanobind::handle values, const Array& array);

size_t checked_threads(int64_t threads);

// Other Python threads run while this lives. A daemon thread that wants back into a Python that has ended waits for the
// end of the process here. Python before 3.14 unwinds its stack instead, which aborts: nanobind's functions are noexcept,
// and so is the destructor of nanobind::gil_scoped_release.
class GilReleased {
public:
    GilReleased() : state_(PyEval_SaveThread()) {}
    ~GilReleased();
    GilReleased(const GilReleased&) = delete;
    GilReleased& operator=(const GilReleased&) = delete;

private:
    PyThreadState* const state_;
};

// Memory for a new array, at an address that is a multiple of 64. Large arrays get huge pages where the system has them:
// a page fault per 4 KiB would cost more time than decoding does. Throws std::bad_alloc.
void* new_memory(size_t bytes);
void delete_memory(void* memory) noexcept;

// A new array that owns its memory, to be filled through data().
template <typename Scalar>
nanobind::ndarray<nanobind::numpy, Scalar> new_array(std::initializer_list<size_t> shape) {
    size_t n = 1;
    for (const size_t length : shape) n *= length;
    Scalar* const data = static_cast<Scalar*>(new_memory(n * sizeof(Scalar)));
    const nanobind::capsule owner(data, delete_memory);
    return nanobind::ndarray<nanobind::numpy, Scalar>(data, shape, owner);
}

}  // namespace quantmill
