// One function per family of formats: it gives the module that family's functions.
#pragma once

#include <nanobind/nanobind.h>

namespace quantmill {

void add_codecs(nanobind::module_& m);
void add_gptq(nanobind::module_& m);
void add_words(nanobind::module_& m);
void add_bitsandbytes(nanobind::module_& m);
void add_small_floats(nanobind::module_& m);
void add_int8_affine(nanobind::module_& m);
void add_hqq(nanobind::module_& m);
void add_differences(nanobind::module_& m);

}  // namespace quantmill
