#!/bin/sh
# Builds the NEON column with a cross compiler and runs the laws of tests/kernels/native under qemu-user.
# Debian: apt-get install g++-aarch64-linux-gnu qemu-user. Prints the number of broken laws, fails if any is.
set -eu
cd "$(dirname "$0")/../.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

flags="-std=c++20 -O2 -ffp-contract=off -fno-math-errno -fno-trapping-math -Wall -Wextra -Ikernels/src -Itests/kernels/native"
compile() {  # object, source, definitions
    echo "aarch64-linux-gnu-g++ $flags $3 -c $2 -o $folder/$1.o"
}
{
    for source in kernels/src/*.cpp tests/kernels/native/*.cpp; do
        compile "$(basename "$source" .cpp)" "$source" -DQUANTMILL_HAS_neon
    done
    for isa in scalar neon; do
        for source in $(ls kernels/src/*/*.cpp | grep -v /bindings/); do
            compile "$(basename "$source" .cpp)_$isa" "$source" "-DQUANTMILL_UNIT=$isa"
        done
    done
} | xargs -d '\n' -P "$(nproc)" -I{} sh -c '{}'
aarch64-linux-gnu-g++ -static -pthread "$folder"/*.o -o "$folder/laws"
qemu-aarch64 "$folder/laws"
