#!/bin/sh
# Builds the laws of tests/kernels/native for other compilers and machines, warnings being errors, and runs them:
#   gcc      the compiler of the wheel, every x86-64 instruction set; then again on a CPU without AVX, under qemu-user
#   clang    the same without qemu
#   aarch64  NEON, by a cross compiler, under qemu-user
# portability.sh [gcc] [clang] [aarch64]: all three when none is named. Prints the number of broken laws of each, and
# fails if a build gives a warning or a law is broken.
# Debian: apt-get install cmake ninja-build g++ clang g++-aarch64-linux-gnu qemu-user. Takes some two minutes of two cores.
set -eu
cd "$(dirname "$0")/../.."
PATH="$PWD/.venv/bin:$PATH"

build() {  # name, options of cmake
    name=$1
    shift
    # Without precompiled headers, as the wheel is built: Clang 14 cannot use its own of lanes.h.
    cmake -G Ninja -S kernels -B "build/laws_$name" -DQUANTMILL_LAWS=ON -DCMAKE_COMPILE_WARNING_AS_ERROR=ON \
        -DCMAKE_DISABLE_PRECOMPILE_HEADERS=ON "$@" >/dev/null
    cmake --build "build/laws_$name" --parallel "$(nproc)" --target laws
}
# The linker keeps one copy of what several units define, perhaps that of a newer machine: they must define nothing alike.
nothing_shared() {  # name
    ! find "build/laws_$1" -path '*/kernels_*.dir/*' -name '*.o' -exec nm -C --defined-only {} + | grep ' [WVui] '
}
gcc() {
    build gcc -DCMAKE_CXX_COMPILER=g++
    nothing_shared gcc
    build/laws_gcc/laws/laws
    # The dispatch finds scalar code alone, and an AVX instruction in what runs around it ends the program.
    qemu-x86_64 -cpu Nehalem build/laws_gcc/laws/laws
}
clang() {
    build clang -DCMAKE_CXX_COMPILER=clang++
    nothing_shared clang
    build/laws_clang/laws/laws
}
aarch64() {
    build aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
        -DCMAKE_EXE_LINKER_FLAGS=-static
    qemu-aarch64 build/laws_aarch64/laws/laws
}

[ $# -gt 0 ] || set -- gcc clang aarch64
for machine in "$@"; do
    echo "$machine"
    "$machine"
done
