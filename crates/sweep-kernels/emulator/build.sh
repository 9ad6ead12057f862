#!/usr/bin/env bash
# Builds the emulated CUDA device.
#   usage: build.sh OUT [KERNELS…]     KERNELS: .cu files; default: crates/sweep-kernels/cuda/*.cu
# OUT is laid out as a CUDA_HOME: bin/nvcc, include, lib (the libraries and lib/kernels/*.so, one for each .cu file), and
# OUT/env.sh, which sets the variables that make cargo build for the emulated device and programs run on it.
# What is newer than its sources stays. Needs: bash, g++ (C++17), binutils, and cudarc's source in cargo's registry.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../../.." && pwd)"
[ $# -ge 1 ] || { echo "usage: build.sh OUT [KERNELS…]" >&2; exit 2; }
mkdir -p "$1"
out="$(cd "$1" && pwd)"
shift
shopt -s nullglob
kernels=("$@")
[ ${#kernels[@]} -gt 0 ] || kernels=("$here"/../cuda/*.cu)
mkdir -p "$out"/{bin,include,lib/kernels,obj}
ln -sfn lib "$out/lib64"
cmp -s "$here/nvcc" "$out/bin/nvcc" || cp "$here/nvcc" "$out/bin/nvcc"
# device.h is included before everything else, so the toolkit's headers have nothing to add.
for header in cuda_runtime cuda_bf16 cuda_fp16 cuda mma device_launch_parameters; do
  [ -e "$out/include/$header.h" ] || echo "#pragma once" > "$out/include/$header.h"
done

flags=(-std=c++17 -O2 -g1 -Wall -Wextra -fPIC -fvisibility=hidden -ffp-contract=off -pthread -I "$here")
[ "$(uname -m)" = x86_64 ] && flags+=(-march=native)

# Runs jobs two at a time; the first failure ends the build.
jobs_running=0
start() {
  if [ "$jobs_running" -ge 2 ]; then wait -n; jobs_running=$((jobs_running - 1)); fi
  "$@" & jobs_running=$((jobs_running + 1))
}
finish() { while [ "$jobs_running" -gt 0 ]; do wait -n; jobs_running=$((jobs_running - 1)); done; }

# is_new TARGET SOURCE…: whether the target is at least as new as all sources.
is_new() {
  local target="$1" source
  shift
  [ -e "$target" ] || return 1
  for source in "$@"; do [ ! "$source" -nt "$target" ] || return 1; done
}

headers=("$here"/*.h "$here/build.sh")

compile_unit() { # name
  is_new "$out/obj/$1.o" "$here/$1.cpp" "${headers[@]}" || {
    g++ "${flags[@]}" -c "$here/$1.cpp" -o "$out/obj/$1.tmp" && mv "$out/obj/$1.tmp" "$out/obj/$1.o"
  }
}

# ---- cudarc's bindings: every function of theirs must exist ----

version="$(sed -n '/^name = "cudarc"$/{n;s/^version = "\(.*\)"$/\1/p;q}' "$root/Cargo.lock" 2>/dev/null || true)"
bindings="$(ls -d "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/cudarc-"${version:-0.19.10}" 2>/dev/null | head -1 || true)"
[ -n "$bindings" ] || { echo "build.sh: the source of cudarc ${version:-0.19.10} is not in cargo's registry: run cargo fetch" >&2; exit 1; }

# library MODULE SONAME LINKNAME PREFIX UNIT…: links the units, with a stub for every function of the bindings' module that no
# unit defines.
library() {
  local module="$1" soname="$2" link="$3" prefix="$4" units=() unit
  shift 4
  for unit in "$@"; do units+=("$out/obj/$unit.o"); done
  local target="$out/lib/$soname" stubs="$out/obj/stubs_$link"
  is_new "$target" "${units[@]}" "$here/build.sh" && return 0
  local defined="$stubs.defined"
  if [ ${#units[@]} -gt 0 ]; then nm --defined-only -g "${units[@]}" | awk 'NF == 3 { print $3 }' | sort -u > "$defined"; else : > "$defined"; fi
  { echo '#include <stdio.h>'; echo '#include <stdlib.h>'
    if [ "$module" != none ]; then
      { grep -oE "pub unsafe fn +${prefix}[A-Za-z0-9_]*" "$bindings/src/$module/sys/mod.rs" || true; } | awk '{ print $4 }' | sort -u | comm -23 - "$defined" |
        while read -r name; do
          echo "__attribute__((visibility(\"default\"))) int $name(void) { fprintf(stderr, \"emulated device: $name is not emulated\\n\"); abort(); }"
        done
    fi; } > "$stubs.c"
  gcc -O1 -fPIC -fno-builtin -w -c "$stubs.c" -o "$stubs.o"
  local needs=()
  # NVML is asked in processes that have no driver, and looks for it only when it is there.
  [ "$link" = cuda ] || [ "$link" = nvidia-ml ] || needs=(-Wl,--no-as-needed -L "$out/lib" -l:libcuda.so.1)
  g++ -shared -pthread -Wl,-soname,"$soname" -Wl,-z,defs -Wl,-rpath,'$ORIGIN' -o "$target.tmp" "${units[@]}" "$stubs.o" "${needs[@]}" -ldl
  mv "$target.tmp" "$target"
  ln -sfn "$soname" "$out/lib/lib$link.so"
}

units=(block driver driver_launch driver_memory execute fiber memory stream gemm blas blaslt dnn curand nvml)
for unit in "${units[@]}"; do start compile_unit "$unit"; done
finish
library driver   libcuda.so.1      cuda     cu     block driver driver_launch driver_memory execute fiber memory stream
library cublas   libcublas.so.13   cublas   cublas gemm blas
library cublaslt libcublasLt.so.13 cublasLt cublas gemm blaslt
library cudnn    libcudnn.so.9     cudnn    cudnn  gemm dnn
library curand   libcurand.so.10   curand   curand curand
library nvrtc    libnvrtc.so.13    nvrtc    nvrtc
library none     libcudart.so.13   cudart   none
library none     libnvidia-ml.so.1 nvidia-ml none  nvml

# ---- Kernels: compiled once to find them, and once more with the unit that registers them ----

device_flags=(-x c++ -std=c++17 -DSWEEP_EMULATED -include "$here/device.h" -I "$out/include" -fno-strict-aliasing -Wno-unknown-pragmas -Wno-attributes)

compile_kernels() { # file.cu
  local source="$1" name target
  name="$(basename "$source" .cu)"
  target="$out/lib/kernels/$name.so"
  is_new "$target" "$source" "$(dirname "$source")"/*.cuh "$(dirname "$source")"/*.h "${headers[@]}" && return 0
  g++ "${flags[@]}" -w "${device_flags[@]}" -O0 -c "$source" -o "$out/obj/kernels_$name.o"
  { echo "#include \"$source\""; echo "#include \"register.h\""
    echo "static const bool registered[] = {false"
    objdump -t "$out/obj/kernels_$name.o" | awk '$NF !~ /^\./ && / F sweep_kernels/ { print $NF }' | sort -u |
      while read -r kernel; do
        case "$kernel" in _Z*) echo "build.sh: $source: kernel $(c++filt "$kernel") is not extern \"C\"" >&2; exit 1;; esac
        echo ", register_as<&$kernel>(\"$kernel\")"
      done
    echo "};"; } > "$out/obj/register_$name.cpp"
  g++ "${flags[@]}" "${device_flags[@]}" -Wno-unused -shared -Wl,-z,defs -o "$target.tmp" "$out/obj/register_$name.cpp" -L "$out/lib" -l:libcuda.so.1
  mv "$target.tmp" "$target"
}

for source in "${kernels[@]}"; do start compile_kernels "$(cd "$(dirname "$source")" && pwd)/$(basename "$source")"; done
finish
# A library whose source has gone would register kernels that no longer exist.
for built in "$out"/lib/kernels/*.so; do
  kept=""
  for source in "${kernels[@]}"; do [ "$(basename "$source" .cu)" != "$(basename "$built" .so)" ] || kept=1; done
  [ -n "$kept" ] || rm "$built"
done

cat > "$out/env.sh" <<ENVIRONMENT
# To be sourced: builds and runs of this shell use the emulated CUDA device.
export CUDA_HOME="$out" CUDA_PATH="$out" CUDA_ROOT="$out" NVCC="$out/bin/nvcc" PATH="$out/bin:\$PATH"
export CUDA_COMPUTE_CAP=90 CUDARC_CUDA_VERSION=13000 SWEEP_EMULATOR="$out"
export LIBRARY_PATH="$out/lib\${LIBRARY_PATH:+:\$LIBRARY_PATH}" LD_LIBRARY_PATH="$out/lib\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
# Builds for the emulated device have a folder of their own, so that the others stay valid.
export CARGO_TARGET_DIR="\${SWEEP_EMULATED_TARGET_DIR:-$root/target/emulated}"
ENVIRONMENT
