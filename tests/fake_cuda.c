// A CUDA driver library without a GPU: memory is the host's, launches are written to a log.
// Built by test_cuda_launcher.py. Functions that are not here succeed and do nothing.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  unsigned grid[3], block[3], shared;
  void *stream;
  void *attributes;
  unsigned num_attributes;
} launch_config;

static FILE *log_file(void) {
  static FILE *file;
  if (!file) file = fopen(getenv("FAKE_CUDA_LOG"), "w");
  return file;
}

static int nothing(void) { return 0; }
static int driver_version(int *out) {
  const char *version = getenv("FAKE_CUDA_VERSION");
  return *out = version ? atoi(version) : 13000, 0;
}

static int device_count(int *out) { return *out = 1, 0; }
static int device_get(int *out, int ordinal) { return *out = ordinal, 0; }

static int device_attribute(int *out, int attribute, int device) {
  const char *capability = getenv("FAKE_CUDA_CAPABILITY");  // "90"
  (void)device;
  *out = 1;
  if (attribute == 75) *out = atoi(capability) / 10;
  if (attribute == 76) *out = atoi(capability) % 10;
  return 0;
}

static int some_handle(void **out) { return *out = (void *)0x1000, 0; }
static int stream_create(void **out, unsigned flags) { return (void)flags, *out = (void *)0x5000, 0; }
static int context_device(int *out) { return *out = 0, 0; }

static int device_name(char *out, int length, int device) {
  (void)device;
  return snprintf(out, length, "Recorder"), 0;
}

static int memory_info(size_t *free_bytes, size_t *total_bytes) {
  *free_bytes = *total_bytes = (size_t)80000 << 20;
  return 0;
}

static int pool_attribute(void *pool, int attribute, uint64_t *out) {
  (void)pool;
  return *out = attribute == 5 ? (uint64_t)1 << 20 : 0, 0;  // 1 MiB is reserved, none of it used
}

static int allocate(void **out, size_t size) {
  const char *limit = getenv("FAKE_CUDA_LARGEST");
  if (size > (limit ? (size_t)atoll(limit) : (size_t)80000 << 20)) return 2;  // OUT_OF_MEMORY
  *out = aligned_alloc(256, (size + 255) / 256 * 256);
  memset(*out, 0, size);
  fprintf(log_file(), "allocate %p %zu\n", *out, size);
  return fflush(log_file()), 0;
}

static int release(void *memory, void *stream) {  // it stays: late readers would show in the tokens
  (void)stream;
  fprintf(log_file(), "free %p\n", memory);
  return memset(memory, 0xff, 1), fflush(log_file()), 0;
}

static int copy(const char *kind, void *to, const void *from, size_t size) {
  if (getenv("FAKE_CUDA_COPIES_FAIL")) return 700;  // CUDA_ERROR_ILLEGAL_ADDRESS
  fprintf(log_file(), "%s %p %p %zu\n", kind, to, from, size);
  return memcpy(to, from, size), fflush(log_file()), 0;
}

static int upload(void *to, const void *from, size_t size) { return copy("upload", to, from, size); }

static int download(void *to, const void *from, size_t size) {
  return copy("download", to, from, size);
}

static int copy_within(void *to, const void *from, size_t size) {
  return copy("copy", to, from, size);
}

static const char *const names[] = {"sample", "remask"};
static const int num_pointers[] = {8, 6};

static int get_kernel(void **out, void *library, const char *name) {
  (void)library;
  if (getenv("FAKE_CUDA_NO_KERNELS")) return 209;  // CUDA_ERROR_NO_BINARY_FOR_GPU
  for (int i = 0; i < 2; ++i)
    if (!strcmp(name, names[i])) return *out = (void *)(uintptr_t)(0x100 + i), 0;
  return 500;  // CUDA_ERROR_NOT_FOUND
}

static int size_of_argument(int kernel, int index) {
  int pointers = num_pointers[kernel], count = pointers + 4;
  if (getenv("FAKE_CUDA_OTHER_BUILD")) count -= 1;
  if (index >= count) return 0;
  return index == pointers || index == pointers + 1 ? 4 : 8;
}

static int parameter_info(void *kernel, size_t index, size_t *offset, size_t *size) {
  int found = size_of_argument((int)((uintptr_t)kernel - 0x100), (int)index);
  if (!found) return 1;  // CUDA_ERROR_INVALID_VALUE
  *offset = 8 * index;
  if (size) *size = found;
  return 0;
}

static int launch(const launch_config *c, void *function, void **arguments, void **extra) {
  int kernel = (int)((uintptr_t)function - 0x100), size;
  (void)extra;
  if (getenv("FAKE_CUDA_LAUNCHES_FAIL")) return 701;  // CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES
  fprintf(log_file(), "launch %s %u,%u,%u %u,%u,%u %u %p", names[kernel], c->grid[0], c->grid[1],
          c->grid[2], c->block[0], c->block[1], c->block[2], c->shared, c->stream);
  for (int i = 0; (size = size_of_argument(kernel, i)); ++i) {
    uint64_t word = 0;
    memcpy(&word, arguments[i], size);
    fprintf(log_file(), " %llx", (unsigned long long)word);
  }
  fprintf(log_file(), "\n");
  fflush(log_file());
  return 0;
}

static int capturing;

static int begin_capture(void *stream, int mode) {
  (void)stream, (void)mode;
  return fprintf(log_file(), "begin capture\n"), capturing = 1, 0;
}

static int capture_info(void *stream, int *status) { return (void)stream, *status = capturing, 0; }

static int end_capture(void *stream, void **graph) {
  (void)stream;
  fprintf(log_file(), "end capture\n");
  *graph = (void *)0x2000, capturing = 0;
  return getenv("FAKE_CUDA_CAPTURES_FAIL") ? 901 : 0;  // CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
}

static int wait(void *stream) {
  if (getenv("FAKE_CUDA_WAITS_FAIL")) return 700;  // CUDA_ERROR_ILLEGAL_ADDRESS
  return (void)stream, capturing ? 900 : 0;  // CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
}

static int instantiate(void **out) { return *out = (void *)0x3000, 0; }

static int replay(void *graph, void *stream) {
  if (getenv("FAKE_CUDA_REPLAYS_FAIL")) return 700;  // CUDA_ERROR_ILLEGAL_ADDRESS
  return fprintf(log_file(), "replay %p %p\n", graph, stream), fflush(log_file()), 0;
}

static int error_text(int error, const char **out) {
  (void)error;
  return *out = "CUDA_ERROR_FAKE", 0;
}

static const struct {
  const char *name;
  void *function;
} functions[] = {
    {"cuDriverGetVersion", driver_version},
    {"cuDeviceGetCount", device_count},
    {"cuDeviceGet", device_get},
    {"cuDeviceGetAttribute", device_attribute},
    {"cuDevicePrimaryCtxRetain", some_handle},
    {"cuCtxGetCurrent", some_handle},
    {"cuCtxGetDevice", context_device},
    {"cuStreamCreate", stream_create},
    {"cuStreamCreateWithPriority", stream_create},
    {"cuDeviceGetMemPool", some_handle},
    {"cuDeviceGetDefaultMemPool", some_handle},
    {"cuMemGetMemPool", some_handle},
    {"cuMemGetDefaultMemPool", some_handle},
    {"cuMemPoolGetAttribute", pool_attribute},
    {"cuMemAllocFromPoolAsync", allocate},
    {"cuMemAllocAsync", allocate},
    {"cuDeviceGetName", device_name},
    {"cuMemFreeAsync", release},
    {"cuMemGetInfo", memory_info},
    {"cuMemcpyHtoDAsync", upload},
    {"cuMemcpyDtoHAsync", download},
    {"cuMemcpyDtoDAsync", copy_within},
    {"cuLibraryLoadData", some_handle},
    {"cuLibraryGetKernel", get_kernel},
    {"cuKernelGetParamInfo", parameter_info},
    {"cuLaunchKernelEx", launch},
    {"cuStreamBeginCapture", begin_capture},
    {"cuStreamGetCaptureInfo", capture_info},
    {"cuStreamIsCapturing", capture_info},
    {"cuStreamEndCapture", end_capture},
    {"cuStreamSynchronize", wait},
    {"cuGraphInstantiate", instantiate},
    {"cuGraphInstantiateWithFlags", instantiate},
    {"cuGraphInstantiateWithParams", instantiate},
    {"cuGraphLaunch", replay},
    {"cuGetErrorName", error_text},
    {"cuGetErrorString", error_text},
};

int cuGetProcAddress_v2(const char *name, void **out, int version, uint64_t flags, int *status);

int cuGetProcAddress_v2(const char *name, void **out, int version, uint64_t flags, int *status) {
  (void)version, (void)flags;
  *out = nothing;
  if (status) *status = 0;
  if (!strncmp(name, "cuGetProcAddress", 16)) *out = cuGetProcAddress_v2;
  for (size_t i = 0; i < sizeof functions / sizeof *functions; ++i)
    if (!strcmp(name, functions[i].name)) *out = functions[i].function;
  return 0;
}

int cuGetProcAddress(const char *name, void **out, int version, uint64_t flags) {
  return cuGetProcAddress_v2(name, out, version, flags, NULL);
}

int cuInit(unsigned flags) { return (void)flags, 0; }

// Asked for by name, without cuGetProcAddress.
int cuDriverGetVersion(int *out) { return driver_version(out); }
int cuDeviceGetCount(int *out) { return device_count(out); }
int cuDeviceGet(int *out, int ordinal) { return device_get(out, ordinal); }
int cuDeviceGetName(char *out, int length, int device) { return device_name(out, length, device); }

int cuDeviceGetAttribute(int *out, int attribute, int device) {
  return device_attribute(out, attribute, device);
}

int cuDeviceTotalMem_v2(size_t *out, int device) {
  size_t free_bytes;
  return (void)device, memory_info(&free_bytes, out);
}
