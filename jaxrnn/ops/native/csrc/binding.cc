// The kernels as calls of XLA's foreign function interface, and as a Python module that hands them out.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <atomic>
#include <cstring>
#include <vector>

#include "calls.h"
#include "team.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace jaxrnn {
namespace {

using Floats = ffi::Buffer<ffi::F32>;
using Flags = ffi::Buffer<ffi::PRED>;
using FloatsOut = ffi::ResultBuffer<ffi::F32>;

struct Choice {
  const char* name;
  const Kernels* kernels;
};

bool has_avx2() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return false;
#endif
}

bool has_avx512() {
#if defined(__x86_64__)
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
#else
  return false;
#endif
}

// What this processor can run, the fastest first.
const std::vector<Choice>& choices() {
  static const std::vector<Choice> found = [] {
    std::vector<Choice> all;
    if (has_avx512()) all.push_back({"AVX-512", avx512_kernels()});
    if (has_avx2()) all.push_back({"AVX2", avx2_kernels()});
    if (neon_kernels()) all.push_back({"NEON", neon_kernels()});
    return all;
  }();
  return found;
}

std::atomic<const Kernels*> chosen{nullptr};

const Kernels* kernels() { return chosen.load(std::memory_order_relaxed); }

template <typename Buffer>
auto or_null(Buffer& buffer) {
  return buffer.element_count() > 0 ? buffer.typed_data() : nullptr;
}

Sizes sizes_of(const Floats& x, const Floats& weight_hh, const Floats& weight_hr, int64_t hidden, bool reverse) {
  const auto of_x = x.dimensions();
  return {of_x[0], of_x[1], of_x[2], hidden, weight_hh.dimensions()[1], reverse, weight_hr.element_count() > 0};
}

int threads_of(ffi::ThreadPool& pool) { return static_cast<int>(pool.num_threads()); }

ffi::Error run_forward(ffi::ThreadPool pool, Floats x, Floats weight_ih, Floats weight_hh, Floats weight_hr,
                       Floats bias, Floats own, Floats h_first, Floats c_first, Flags valid, Flags restart,
                       FloatsOut h, FloatsOut h_last, FloatsOut c_last, FloatsOut kept, FloatsOut workspace,
                       int32_t cell, int64_t hidden, bool reverse) {
  Forward call;
  call.sizes = sizes_of(x, weight_hh, weight_hr, hidden, reverse);
  call.x = x.typed_data();
  call.weight_ih = weight_ih.typed_data();
  call.weight_hh = weight_hh.typed_data();
  call.weight_hr = weight_hr.typed_data();
  call.bias = bias.typed_data();
  call.own = own.typed_data();
  call.h_first = h_first.typed_data();
  call.c_first = c_first.typed_data();
  call.valid = or_null(valid);
  call.restart = or_null(restart);
  call.h = h->typed_data();
  call.h_last = h_last->typed_data();
  call.c_last = c_last->typed_data();
  call.kept = or_null(*kept);
  call.workspace = workspace->typed_data();
  kernels()->forward(static_cast<CellKind>(cell), call, threads_of(pool));
  return ffi::Error::Success();
}

ffi::Error run_backward(ffi::ThreadPool pool, Floats x, Floats weight_ih, Floats weight_hh, Floats weight_hr,
                        Floats own, Floats h_first, Flags valid, Flags restart, Floats h, Floats kept, Floats dh,
                        Floats dh_last, Floats dc_last, FloatsOut dx, FloatsOut d_weight_ih, FloatsOut d_weight_hh,
                        FloatsOut d_weight_hr, FloatsOut d_bias, FloatsOut d_own, FloatsOut dh_first,
                        FloatsOut dc_first, FloatsOut workspace, int32_t cell, int64_t hidden, bool reverse) {
  Backward call;
  call.sizes = sizes_of(x, weight_hh, weight_hr, hidden, reverse);
  call.x = x.typed_data();
  call.weight_ih = weight_ih.typed_data();
  call.weight_hh = weight_hh.typed_data();
  call.weight_hr = weight_hr.typed_data();
  call.own = own.typed_data();
  call.h_first = h_first.typed_data();
  call.valid = or_null(valid);
  call.restart = or_null(restart);
  call.h = h.typed_data();
  call.kept = kept.typed_data();
  call.dh = dh.typed_data();
  call.dh_last = dh_last.typed_data();
  call.dc_last = dc_last.typed_data();
  call.dx = or_null(*dx);
  call.d_weight_ih = d_weight_ih->typed_data();
  call.d_weight_hh = d_weight_hh->typed_data();
  call.d_weight_hr = d_weight_hr->typed_data();
  call.d_bias = d_bias->typed_data();
  call.d_own = d_own->typed_data();
  call.dh_first = dh_first->typed_data();
  call.dc_first = dc_first->typed_data();
  call.workspace = workspace->typed_data();
  kernels()->backward(static_cast<CellKind>(cell), call, threads_of(pool));
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER(FORWARD, run_forward,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<Floats>()
                           .Arg<Floats>()
                           .Arg<Floats>()
                           .Arg<Floats>()
                           .Arg<Floats>()
                           .Arg<Floats>()
                           .Arg<Floats>()
                           .Arg<Floats>()
                           .Arg<Flags>()
                           .Arg<Flags>()
                           .Ret<Floats>()
                           .Ret<Floats>()
                           .Ret<Floats>()
                           .Ret<Floats>()
                           .Ret<Floats>()
                           .Attr<int32_t>("cell")
                           .Attr<int64_t>("hidden")
                           .Attr<bool>("reverse"));

XLA_FFI_DEFINE_HANDLER(BACKWARD, run_backward,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<Floats>()
                           .Arg<Floats>()
                           .Arg<Floats>()
                           .Arg<Floats>()
                           .Arg<Floats>()
                           .Arg<Floats>()
                           .Arg<Flags>()
                           .Arg<Flags>()
                           .Arg<Floats>()
                           .Arg<Floats>()
                           .Arg<Floats>()
                           .Arg<Floats>()
                           .Arg<Floats>()
                           .Ret<Floats>()
                           .Ret<Floats>()
                           .Ret<Floats>()
                           .Ret<Floats>()
                           .Ret<Floats>()
                           .Ret<Floats>()
                           .Ret<Floats>()
                           .Ret<Floats>()
                           .Ret<Floats>()
                           .Attr<int32_t>("cell")
                           .Attr<int64_t>("hidden")
                           .Attr<bool>("reverse"));

// Python ---------------------------------------------------------------------------------------------------------

PyObject* workspace(PyObject*, PyObject* args) {
  int cell, backward;
  long long steps, rows, inputs, hidden, outputs;
  if (!PyArg_ParseTuple(args, "iLLLLLp", &cell, &steps, &rows, &inputs, &hidden, &outputs, &backward))
    return nullptr;
  const Sizes sizes{steps, rows, inputs, hidden, outputs ? outputs : hidden, false, outputs > 0};
  const auto size = backward ? kernels()->backward_workspace : kernels()->forward_workspace;
  return PyLong_FromLongLong(size(static_cast<CellKind>(cell), sizes));
}

PyObject* instruction_sets(PyObject*, PyObject*) {
  PyObject* names = PyList_New(0);
  for (const Choice& choice : choices()) {
    PyObject* name = PyUnicode_FromString(choice.name);
    if (!name || PyList_Append(names, name) < 0) return nullptr;
    Py_DECREF(name);
  }
  return names;
}

PyObject* use(PyObject*, PyObject* args) {
  const char* name;
  if (!PyArg_ParseTuple(args, "s", &name)) return nullptr;
  for (const Choice& choice : choices()) {
    if (std::strcmp(choice.name, name) == 0) {
      chosen = choice.kernels;
      Py_RETURN_NONE;
    }
  }
  return PyErr_Format(PyExc_ValueError, "%s is not an instruction set of this processor.", name);
}

PyMethodDef METHODS[] = {
    {"workspace", workspace, METH_VARARGS,
     "workspace(cell, steps, rows, inputs, hidden, projected, backward): the floats that a call needs besides its "
     "results."},
    {"instruction_sets", instruction_sets, METH_NOARGS,
     "instruction_sets(): those of this processor that there are kernels for, the fastest first."},
    {"use", use, METH_VARARGS, "use(instruction_set): compute with its kernels from now on."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef MODULE = {PyModuleDef_HEAD_INIT,
                      "_kernels",
                      "The recurrence on a CPU, in vector instructions.",
                      -1,
                      METHODS,
                      nullptr,
                      nullptr,
                      nullptr,
                      nullptr};

int add_handler(PyObject* module, const char* name, XLA_FFI_Handler* handler) {
  PyObject* capsule = PyCapsule_New(reinterpret_cast<void*>(handler), nullptr, nullptr);
  return capsule ? PyModule_AddObject(module, name, capsule) : -1;
}

}  // namespace
}  // namespace jaxrnn

PyMODINIT_FUNC PyInit__kernels() {
  PyObject* module = PyModule_Create(&jaxrnn::MODULE);
  if (!module) return nullptr;
  if (!jaxrnn::choices().empty()) jaxrnn::chosen = jaxrnn::choices().front().kernels;
  if (jaxrnn::add_handler(module, "forward", jaxrnn::FORWARD) < 0 ||
      jaxrnn::add_handler(module, "backward", jaxrnn::BACKWARD) < 0) {
    Py_DECREF(module);
    return nullptr;
  }
  return module;
}
