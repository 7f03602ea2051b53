#include "bindings/arrays.h"

#include <nanobind/stl/string.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace nb = nanobind;

namespace quantmill {
namespace {

constexpr int64_t most_threads = 1024;
constexpr size_t cache_line = 64, huge_page = size_t{2} << 20;

}  // namespace

std::string text_of(float value) {
    char digits[32];
    return std::string(digits, std::to_chars(digits, digits + sizeof digits, value).ptr);
}

void refuse(const std::string& message) { throw nb::value_error(message.c_str()); }
void refuse_type(const std::string& message) { throw nb::type_error(message.c_str()); }

size_t checked_threads(int64_t threads) {
    if (threads < 1 || threads > most_threads) refuse(text("threads must be 1 to ", most_threads, ", got ", threads));
    return static_cast<size_t>(threads);
}

GilReleased::~GilReleased() {
    try {
        PyEval_RestoreThread(state_);
    } catch (...) {
        for (;;) pause();
    }
}

void* new_memory(size_t bytes) {
    const bool large = bytes >= 2 * huge_page;
    void* memory = nullptr;
    const size_t some = std::max<size_t>(1, bytes);  // an array without values has an address too
    if (posix_memalign(&memory, large ? huge_page : cache_line, some) != 0) throw std::bad_alloc();
#if defined(__linux__)
    if (large) madvise(memory, bytes, MADV_HUGEPAGE);  // a kernel without huge pages refuses; then small ones are used
#endif
    return memory;
}

void delete_memory(void* memory) noexcept { std::free(memory); }

std::string dtype_name(nb::handle array) { return nb::cast<std::string>(array.attr("dtype").attr("name")); }

Array checked_array(nb::handle object, const char* what, size_t ndim) {
    if (!nb::isinstance(object, nb::module_::import_("numpy").attr("ndarray"))) {
        refuse_type(text(what, " must be a numpy array, got ", nb::cast<std::string>(nb::inst_name(object))));
    }
    const bool bfloat16 = dtype_name(object) == "bfloat16";
    const nb::object exchangeable = bfloat16 ? object.attr("view")("uint16") : nb::borrow(object);
    Array array;
    if (!nb::try_cast(exchangeable, array)) {
        const std::string dtype = nb::cast<std::string>(nb::repr(object.attr("dtype")));
        refuse_type(text(what, " has a dtype that cannot be read in place: ", dtype));
    }
    if (array.ndim() != ndim) refuse(text(what, " must have ", ndim, " dimensions, got ", array.ndim()));
    if (!nb::cast<bool>(object.attr("flags").attr("c_contiguous"))) refuse(text(what, " must be C-contiguous"));
    return array;
}

Source source_of(nb::handle values, const Array& array) {
    if (array.dtype() == nb::dtype<float>()) return Source::float32;
    if (array.dtype() == nb::dlpack::dtype{uint8_t(nb::dlpack::dtype_code::Float), 16, 1}) return Source::float16;
    if (array.dtype() == nb::dtype<uint16_t>()) return Source::bfloat16;
    refuse_type(text("values must be float32, float16 or bfloat16 (also as uint16 bits), got ", dtype_name(values)));
}

}  // namespace quantmill
