// classify BUNDLE_DIR [TEXT ...]: one JSON line per text; without texts, the bundle's golden rows.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>
#include <onnxruntime_cxx_api.h>
#include <tokenizers_c.h>

using json = nlohmann::ordered_json;

const char* HELP = "run `paredown choose RUN --candidate NAME` to pack another candidate";

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + ": cannot be read");
  return {std::istreambuf_iterator<char>(file), {}};
}

void expect(const json& manifest, const char* key, const json& wanted) {
  const json found = manifest.value(key, json());
  if (found != wanted) {
    throw std::runtime_error(std::string(key) + " is " + found.dump() + ", this program needs " + wanted.dump() + "; " +
                             HELP);
  }
}

// Token ids of a text with its special tokens, truncated as tokenizer.json says.
std::vector<int64_t> encode(TokenizerHandle tokenizer, const std::string& text) {
  TokenizerEncodeResult result;
  tokenizers_encode(tokenizer, text.data(), text.size(), /*add_special_token=*/1, &result);
  std::vector<int64_t> ids(result.token_ids, result.token_ids + result.len);
  tokenizers_free_encode_results(&result, 1);
  return ids;
}

void classify(const std::string& bundle, std::vector<std::string> texts) {
  const json manifest = json::parse(read(bundle + "/manifest.json"));
  expect(manifest, "schema", 3);
  expect(manifest, "task", "text-classification");
  expect(manifest, "runtime", "onnxruntime");
  expect(manifest, "inputs", {"input_ids", "attention_mask"});
  const std::string model = bundle + "/" + manifest.at("model").get<std::string>();
  const std::string output = manifest.at("outputs").at(0);
  const json labels = manifest.at("labels"), pad_to = manifest.at("length_policy").at("pad_to");
  const json batch_size = manifest.at("batch_size");
  const int64_t pad_id = manifest.at("pad_id"), rows = batch_size.is_null() ? 1 : batch_size.get<int64_t>();
  if (texts.empty()) {
    const json golden = json::parse(read(bundle + "/" + manifest.at("golden").get<std::string>()));
    for (const json& row : golden.at("rows")) texts.push_back(row.at("text"));
  }
  const std::string settings = json::parse(read(bundle + "/tokenizer.json")).dump();
  TokenizerHandle tokenizer = tokenizers_new_from_str(settings.data(), settings.size());
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR);
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(manifest.value("threads", 0));  // 0: all cores
  Ort::Session session(env, model.c_str(), options);
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const char* inputs[] = {"input_ids", "attention_mask"};
  const char* outputs[] = {output.c_str()};

  for (const std::string& text : texts) {
    std::vector<int64_t> ids = encode(tokenizer, text), mask(ids.size(), 1), all_ids, all_masks;
    if (pad_to.is_array()) {
      for (size_t length : pad_to) {
        if (length >= ids.size()) {
          ids.resize(length, pad_id);
          mask.resize(length, 0);
          break;
        }
      }
    }
    for (int64_t row = 0; row < rows; ++row) {
      all_ids.insert(all_ids.end(), ids.begin(), ids.end());
      all_masks.insert(all_masks.end(), mask.begin(), mask.end());
    }
    const int64_t shape[] = {rows, static_cast<int64_t>(ids.size())};
    Ort::Value values[] = {
        Ort::Value::CreateTensor<int64_t>(memory, all_ids.data(), all_ids.size(), shape, 2),
        Ort::Value::CreateTensor<int64_t>(memory, all_masks.data(), all_masks.size(), shape, 2),
    };
    const auto answers = session.Run(Ort::RunOptions{nullptr}, inputs, values, 2, outputs, 1);
    const float* logits = answers[0].GetTensorData<float>();  // of the first row
    const float* end = logits + labels.size();
    const float* best = std::max_element(logits, end);
    double sum = 0;
    for (const float* logit = logits; logit != end; ++logit) sum += std::exp(static_cast<double>(*logit - *best));
    std::cout << json{{"text", text}, {"label", labels[best - logits]}, {"score", 1 / sum}}.dump() << "\n";
  }
  tokenizers_free(tokenizer);
}

int main(int count, char** arguments) {
  setenv("ORT_DISABLE_TELEMETRY", "1", 0);  // else ONNX Runtime reports its use to its vendor
  try {
    if (count < 2) throw std::runtime_error("usage: classify BUNDLE_DIR [TEXT ...]");
    classify(arguments[1], {arguments + 2, arguments + count});
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 2;
  }
}
