// Classify BUNDLE_DIR [TEXT ...]: one JSON line per text; without texts, the bundle's golden rows.

import ai.djl.huggingface.tokenizers.HuggingFaceTokenizer;
import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtSession;
import com.google.gson.Gson;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;

public class Classify {
  private static final String HELP = "run `paredown choose RUN --candidate NAME` to pack another candidate";

  private static JsonObject read(Path path) throws IOException {
    return JsonParser.parseString(Files.readString(path)).getAsJsonObject();
  }

  private static void expect(JsonObject manifest, String key, String wanted) {
    JsonElement needed = JsonParser.parseString(wanted);
    if (!needed.equals(manifest.get(key))) {
      throw new IllegalArgumentException(
          key + " is " + manifest.get(key) + ", this program needs " + needed + "; " + HELP);
    }
  }

  // (rows, length) int64, every row the same: ids, padded on the right
  private static OnnxTensor tensor(OrtEnvironment env, long[] ids, int length, long filler, int rows) throws Exception {
    long[] row = Arrays.copyOf(ids, length);
    Arrays.fill(row, ids.length, length, filler);
    long[][] all = new long[rows][];
    Arrays.fill(all, row);
    return OnnxTensor.createTensor(env, all);
  }

  private static void classify(Path bundle, List<String> texts) throws Exception {
    JsonObject manifest = read(bundle.resolve("manifest.json"));
    expect(manifest, "schema", "3");
    expect(manifest, "task", "\"text-classification\"");
    expect(manifest, "runtime", "\"onnxruntime\"");
    expect(manifest, "inputs", "[\"input_ids\", \"attention_mask\"]");
    JsonArray labels = manifest.getAsJsonArray("labels");
    JsonElement padTo = manifest.getAsJsonObject("length_policy").get("pad_to");
    String output = manifest.getAsJsonArray("outputs").get(0).getAsString();
    long padId = manifest.get("pad_id").getAsLong();
    int rows = manifest.get("batch_size").isJsonNull() ? 1 : manifest.get("batch_size").getAsInt();
    if (texts.isEmpty()) {
      texts = new ArrayList<>();
      for (JsonElement row : read(bundle.resolve(manifest.get("golden").getAsString())).getAsJsonArray("rows")) {
        texts.add(row.getAsJsonObject().get("text").getAsString());
      }
    }
    // Without these options DJL pads to the longest text of a call, and truncates at 512 tokens at most.
    String maxLength = manifest.get("max_length").getAsString();
    Map<String, String> settings = Map.of("padding", "false", "modelMaxLength", maxLength);
    OrtEnvironment env = OrtEnvironment.getEnvironment();
    OrtSession.SessionOptions options = new OrtSession.SessionOptions();
    options.setIntraOpNumThreads(manifest.has("threads") ? manifest.get("threads").getAsInt() : 0); // 0: all cores
    String model = bundle.resolve(manifest.get("model").getAsString()).toString();

    try (HuggingFaceTokenizer tokenizer = HuggingFaceTokenizer.newInstance(bundle.resolve("tokenizer.json"), settings);
        OrtSession session = env.createSession(model, options)) {
      for (String text : texts) {
        long[] ids = tokenizer.encode(text).getIds();
        int length = ids.length;
        if (padTo.isJsonArray()) {
          for (JsonElement known : padTo.getAsJsonArray()) {
            if (known.getAsInt() >= ids.length) {
              length = known.getAsInt();
              break;
            }
          }
        }
        long[] ones = new long[ids.length];
        Arrays.fill(ones, 1);
        try (OnnxTensor inputIds = tensor(env, ids, length, padId, rows);
            OnnxTensor mask = tensor(env, ones, length, 0, rows);
            OrtSession.Result outputs = session.run(Map.of("input_ids", inputIds, "attention_mask", mask))) {
          float[] logits = ((float[][]) outputs.get(output).orElseThrow().getValue())[0]; // of the first row
          int best = 0;
          for (int i = 1; i < logits.length; i++) {
            best = logits[i] > logits[best] ? i : best;
          }
          double sum = 0;
          for (float logit : logits) {
            sum += Math.exp(logit - logits[best]);
          }
          JsonObject line = new JsonObject();
          line.addProperty("text", text);
          line.add("label", labels.get(best));
          line.addProperty("score", 1 / sum);
          System.out.println(new Gson().toJson(line));
        }
      }
    }
  }

  public static void main(String[] arguments) {
    System.setProperty("OPT_OUT_TRACKING", "true"); // DJL would report its use on EC2
    try {
      if (arguments.length == 0) {
        throw new IllegalArgumentException("usage: Classify BUNDLE_DIR [TEXT ...]");
      }
      classify(Path.of(arguments[0]), Arrays.asList(arguments).subList(1, arguments.length));
    } catch (Exception error) {
      System.err.println("error: " + error);
      System.exit(2);
    }
  }
}
