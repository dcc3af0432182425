// Sound for a clip's frames from one graph, with ONNX Runtime's C API:
//
//   host MODEL.onnx FRAMES OUT.wav [seed=7] [steps=4] [guidance=3] ...
//
// FRAMES: raw RGB; fewer than a clip's stand still at its end. images=FILE: of a model that also
// takes larger ones. tokens=FILE writes the tokens, int32.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "onnxruntime_c_api.h"

using Bytes = std::vector<uint8_t>;
using Shape = std::vector<int64_t>;
using Words = std::map<std::string, std::string>;

static const OrtApi* ort = nullptr;

[[noreturn]] static void fail(const std::string& message) { throw std::runtime_error(message); }

static void check(OrtStatus* status) {
  if (status == nullptr) return;
  const std::string message = ort->GetErrorMessage(status);
  ort->ReleaseStatus(status);
  fail(message);
}

template <typename T>
using Owned = std::unique_ptr<T, void (*)(T*)>;

// The model: its shapes by input, and what it says of itself.
struct Model {
  Owned<OrtEnv> env;
  Owned<OrtSession> session;
  std::map<std::string, Shape> shapes;
  Words facts;
};

static std::map<std::string, Shape> read_shapes(OrtSession* session, OrtAllocator* allocator) {
  std::map<std::string, Shape> shapes;
  size_t count = 0;
  check(ort->SessionGetInputCount(session, &count));
  for (size_t i = 0; i < count; i++) {
    char* name = nullptr;
    OrtTypeInfo* type = nullptr;
    const OrtTensorTypeAndShapeInfo* tensor = nullptr;
    size_t rank = 0;
    check(ort->SessionGetInputName(session, i, allocator, &name));
    check(ort->SessionGetInputTypeInfo(session, i, &type));
    check(ort->CastTypeInfoToTensorInfo(type, &tensor));
    check(ort->GetDimensionsCount(tensor, &rank));
    Shape& shape = shapes[name];
    shape.resize(rank);
    check(ort->GetDimensions(tensor, shape.data(), rank));
    ort->ReleaseTypeInfo(type);
    allocator->Free(allocator, name);
  }
  return shapes;
}

static Words read_facts(OrtSession* session, OrtAllocator* allocator) {
  OrtModelMetadata* metadata = nullptr;
  check(ort->SessionGetModelMetadata(session, &metadata));
  Words facts;
  for (const char* name : {"vab_rt.one_graph", "options", "mask_id", "sample_rate_hz"}) {
    char* value = nullptr;
    check(ort->ModelMetadataLookupCustomMetadataMap(metadata, allocator, name, &value));
    facts[name] = value == nullptr ? "none" : value;
    if (value != nullptr) allocator->Free(allocator, value);
  }
  ort->ReleaseModelMetadata(metadata);
  return facts;
}

static Model open_model(const char* path) {
  OrtEnv* env = nullptr;
  OrtSession* session = nullptr;
  OrtSessionOptions* options = nullptr;
  OrtAllocator* allocator = nullptr;
  check(ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "vab", &env));
  Owned<OrtEnv> owned(env, ort->ReleaseEnv);
  check(ort->CreateSessionOptions(&options));
  // Threads that spin while they wait double the time where others use the cores.
  check(ort->AddSessionConfigEntry(options, "session.intra_op.allow_spinning", "0"));
#ifdef _WIN32
  const std::wstring wide(path, path + std::strlen(path));
  OrtStatus* status = ort->CreateSession(env, wide.c_str(), options, &session);
#else
  OrtStatus* status = ort->CreateSession(env, path, options, &session);
#endif
  ort->ReleaseSessionOptions(options);
  check(status);
  check(ort->GetAllocatorWithDefaultOptions(&allocator));
  Model model{std::move(owned), {session, ort->ReleaseSession}, {}, {}};
  model.shapes = read_shapes(session, allocator);
  model.facts = read_facts(session, allocator);
  if (model.facts["vab_rt.one_graph"] != "1") {
    fail("one graph of version " + model.facts["vab_rt.one_graph"] + ", expected 1; export it again");
  }
  if (!model.shapes.count("frames")) {
    fail("the graph takes features, expected frames; export it with --with-video");
  }
  return model;
}

static Bytes read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail(path + " cannot be read, expected a file");
  return {std::istreambuf_iterator<char>(file), {}};
}

// Frames of a whole clip; `share` of them are the file's.
static Bytes read_frames(const std::string& path, const Shape& shape, double& share) {
  Bytes bytes = read_file(path);
  const size_t size = shape[1] * shape[2] * shape[3], whole = size * shape[0];
  if (bytes.empty() || bytes.size() % size != 0 || bytes.size() > whole) {
    fail(path + " holds " + std::to_string(bytes.size()) + " bytes, expected 1 to " +
         std::to_string(shape[0]) + " frames of " + std::to_string(shape[2]) + " x " +
         std::to_string(shape[1]) + " RGB, " + std::to_string(size) + " bytes each");
  }
  share = double(bytes.size()) / double(whole);
  const Bytes last(bytes.end() - size, bytes.end());
  while (bytes.size() < whole) bytes.insert(bytes.end(), last.begin(), last.end());
  return bytes;
}

// The number of a name in the model's JSON of recommended options; empty where it has none.
static std::string recommended(const std::string& json, const std::string& name) {
  const size_t at = json.find('"' + name + "\":");
  if (at == std::string::npos) return "";
  const size_t begin = json.find_first_not_of(' ', at + name.size() + 3);
  const std::string value = json.substr(begin, json.find_first_of(",}", begin) - begin);
  return value == "null" ? "" : value;
}

static uint64_t read_whole(const std::string& name, const std::string& text, uint64_t low, uint64_t high) {
  char* end = nullptr;
  errno = 0;
  const uint64_t value = std::strtoull(text.c_str(), &end, 10);
  const bool is_number = !text.empty() && std::all_of(text.begin(), text.end(), ::isdigit);
  if (!is_number || errno != 0 || value < low || value > high) {
    fail(name + " is " + text + ", expected a whole number from " + std::to_string(low) + " to " +
         std::to_string(high));
  }
  return value;
}

static double read_real(const std::string& name, const std::string& text, double low) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != 0 || !(value >= low && value <= 1e6)) {
    char range[64];
    std::snprintf(range, sizeof range, "%g to 1000000", low);
    fail(name + " is " + text + ", expected a number from " + range);
  }
  return value;
}

// What goes in: names, and tensors around numbers that stay where they are.
struct Feeds {
  std::vector<const char*> names;
  std::vector<Owned<OrtValue>> values;
  std::vector<std::shared_ptr<void>> held;
  Owned<OrtMemoryInfo> memory{nullptr, ort->ReleaseMemoryInfo};

  Feeds() {
    OrtMemoryInfo* info = nullptr;
    check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &info));
    memory.reset(info);
  }

  template <typename T>
  void add(const char* name, std::vector<T> numbers, const Shape& shape, ONNXTensorElementDataType type) {
    auto kept = std::make_shared<std::vector<T>>(std::move(numbers));
    OrtValue* value = nullptr;
    check(ort->CreateTensorWithDataAsOrtValue(memory.get(), kept->data(), kept->size() * sizeof(T),
                                              shape.data(), shape.size(), type, &value));
    names.push_back(name);
    values.emplace_back(value, ort->ReleaseValue);
    held.push_back(kept);
  }
};

static void add_settings(Feeds& feeds, const Model& model, Words& words) {
  const uint64_t seed = read_whole("seed", words.count("seed") ? words["seed"] : "0", 0, UINT64_MAX);
  feeds.add<uint32_t>("seed_low", {uint32_t(seed)}, {}, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32);
  feeds.add<uint32_t>("seed_high", {uint32_t(seed >> 32)}, {}, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32);
  words.erase("seed");
  const auto asked = [&](const std::string& name) {
    const std::string own = words.count(name) ? words[name] : "";
    const bool is_given = words.erase(name) > 0;
    return is_given ? own : recommended(model.facts.at("options"), name);
  };
  for (const char* name : {"steps", "fine_steps", "top_k"}) {
    if (!model.shapes.count(name)) continue;
    const bool is_steps = std::strcmp(name, "top_k") != 0;
    const auto value = int64_t(read_whole(name, asked(name), is_steps, is_steps ? 1024 : INT32_MAX));
    feeds.add<int64_t>(name, {value}, {}, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64);
  }
  const std::pair<const char*, double> lowest[] = {
      {"guidance", -1e6}, {"temperature", 1e-6}, {"mask_temperature", 0}};
  for (const auto& [name, low] : lowest) {
    feeds.add<double>(name, {read_real(name, asked(name), low)}, {}, ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE);
  }
  if (!words.empty()) {
    fail("'" + words.begin()->first + "', expected NAME=VALUE with one of: seed, steps, top_k, guidance, "
         "temperature, mask_temperature, images, tokens, and fine_steps of a model in two stages");
  }
}

// 16 bits, one channel; quieter where it would not fit.
static void write_wav(const char* path, const float* samples, uint32_t count, uint32_t rate_hz) {
  float loudest = 1;
  for (uint32_t i = 0; i < count; i++) loudest = std::max(loudest, std::fabs(samples[i]));
  std::ofstream file(path, std::ios::binary);
  const auto put = [&](uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) file.put(char(value >> (8 * i)));
  };
  file << "RIFF";
  put(36 + 2 * count, 4);
  file << "WAVEfmt ";
  for (auto [value, bytes] : {std::pair<uint32_t, int>{16, 4}, {1, 2}, {1, 2}, {rate_hz, 4},
                              {2 * rate_hz, 4}, {2, 2}, {16, 2}}) {
    put(value, bytes);
  }
  file << "data";
  put(2 * count, 4);
  for (uint32_t i = 0; i < count; i++) put(uint16_t(std::lrint(samples[i] / loudest * 32767)), 2);
  if (!file.flush()) fail(std::string(path) + " cannot be written, expected a folder with room");
}

static void run(const char* path, const char* frames, const char* out, Words words) {
  Model model = open_model(path);
  const auto taken = [&](const char* name) {
    const std::string value = words.count(name) ? words[name] : "";
    words.erase(name);
    return value;
  };
  const std::string images = taken("images"), tokens = taken("tokens");
  double share = 1, unused = 1;
  Feeds feeds;
  const Shape &seen = model.shapes["frames"], &given = model.shapes["given"];
  feeds.add("frames", read_frames(frames, seen, share), seen, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8);
  if (!images.empty() && !model.shapes.count("images")) {
    fail("the graph takes no images, expected frames alone");
  }
  if (model.shapes.count("images")) {
    if (images.empty()) fail("the graph also takes images, expected images=FILE");
    const Shape& larger = model.shapes["images"];
    feeds.add("images", read_frames(images, larger, unused), larger, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8);
  }
  const size_t num_tokens = given[1] * given[2];
  const std::vector<int32_t> masked(num_tokens, std::stoi(model.facts["mask_id"]));
  feeds.add("given", masked, given, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32);
  add_settings(feeds, model, words);

  std::vector<const OrtValue*> values;
  for (const auto& value : feeds.values) values.push_back(value.get());
  const char* names[] = {"tokens", "audio"};
  OrtValue* found[] = {nullptr, nullptr};
  check(ort->Run(model.session.get(), nullptr, feeds.names.data(), values.data(), values.size(), names, 2,
                 found));
  const Owned<OrtValue> first(found[0], ort->ReleaseValue), second(found[1], ort->ReleaseValue);
  int32_t* filled = nullptr;
  float* samples = nullptr;
  OrtTensorTypeAndShapeInfo* info = nullptr;
  size_t count = 0;
  check(ort->GetTensorMutableData(found[0], reinterpret_cast<void**>(&filled)));
  check(ort->GetTensorMutableData(found[1], reinterpret_cast<void**>(&samples)));
  check(ort->GetTensorTypeAndShape(found[1], &info));
  const Owned<OrtTensorTypeAndShapeInfo> shape(info, ort->ReleaseTensorTypeAndShapeInfo);
  check(ort->GetTensorShapeElementCount(info, &count));
  if (!tokens.empty()) {
    std::ofstream(tokens, std::ios::binary).write(reinterpret_cast<char*>(filled), 4 * num_tokens);
  }
  const uint32_t rate_hz = std::stoi(model.facts["sample_rate_hz"]);
  const auto heard = uint32_t(std::ceil(count * share));
  write_wav(out, samples, heard, rate_hz);
  std::printf("%s: %g s\n", out, double(heard) / rate_hz);
}

int main(int count, char** words) {
  ort = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  try {
    if (ort == nullptr) fail("the library is older than its headers; take both of one release");
    if (count < 4) fail("expected: host MODEL.onnx FRAMES OUT.wav [NAME=VALUE ...]");
    Words wishes;
    for (int i = 4; i < count; i++) {
      const std::string word = words[i];
      const size_t at = word.find('=');
      wishes[word.substr(0, at)] = at == std::string::npos ? "" : word.substr(at + 1);
    }
    run(words[1], words[2], words[3], wishes);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
