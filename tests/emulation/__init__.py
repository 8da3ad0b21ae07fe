"""The CUDA execution model on a CPU, for the kernels of kernels/cuda. Start at cuda_emulation.h and scheduler.h.

scheduler.h          blocks, threads as fibers, barriers, shared memory with race detection
cuda_emulation.h     the names of the CUDA language and runtime that kernels use
half.h               16-bit floats
async_copy.h mma.h   kernels/cuda/async_copy.cuh and mma.cuh: copies under way, tensor-core fragments
hopper.h             hopper.cuh and tensor_map.h: TMA, barriers that count bytes, wgmma
hooks.cpp            what the tests reach through ctypes
faulty_kernels.cpp   planted bugs, to show that they are found
build.py support.py  the library, and what its tests share
stand_in.py          a pytest plugin: tests of myops.sparse run on the emulated kernels
"""
