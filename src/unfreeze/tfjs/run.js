// Runs a graph model on batches of images: node run.js MODULES MODEL.json BACKEND FOLDER
// FOLDER/batches.json lists the batches; their pixels and the outputs are binary files beside it.
const fs = require('fs');
const path = require('path');
const { createRequire } = require('module');

const [modules, modelPath, backend, folder] = process.argv.slice(2);
const load = createRequire(path.join(modules, 'package.json'));
const ARRAYS = { float32: Float32Array, int32: Int32Array };

function modelOf(file) {
  const model = JSON.parse(fs.readFileSync(file, 'utf8'));
  const [group] = model.weightsManifest;
  const shards = group.paths.map((name) => fs.readFileSync(path.join(path.dirname(file), name)));
  const content = Buffer.concat(shards);
  return {
    ...model,
    weightSpecs: group.weights,
    weightData: content.buffer.slice(content.byteOffset, content.byteOffset + content.length),
  };
}

async function main() {
  const tf = load('@tensorflow/tfjs');
  if (backend === 'wasm') {
    const wasm = load('@tensorflow/tfjs-backend-wasm');
    wasm.setWasmPaths(path.dirname(load.resolve('@tensorflow/tfjs-backend-wasm')) + path.sep);
  }
  if (!(await tf.setBackend(backend))) throw new Error(`the backend ${backend} does not start`);
  await tf.ready();
  const model = await tf.loadGraphModel({ load: async () => modelOf(modelPath) });
  const batches = JSON.parse(fs.readFileSync(path.join(folder, 'batches.json'), 'utf8'));
  const names = Object.keys(model.modelSignature.outputs).sort();
  const tensors = names.map((name) => model.modelSignature.outputs[name].name);
  const results = [];
  for (const [index, batch] of batches.entries()) {
    const bytes = fs.readFileSync(path.join(folder, batch.file));
    const values = new ARRAYS[batch.dtype](bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
    const input = tf.tensor(values, batch.shape, batch.dtype);
    const outputs = await model.executeAsync({ [batch.input]: input }, tensors);
    const entries = {};
    for (const [position, tensor] of [outputs].flat().entries()) {
      const file = `output-${index}-${position}.bin`;
      // The CPU backend keeps int32 values in a tensor that was cast to float32.
      const data = tensor.dtype in ARRAYS ? ARRAYS[tensor.dtype].from(await tensor.data()) : await tensor.data();
      fs.writeFileSync(path.join(folder, file), Buffer.from(data.buffer, data.byteOffset, data.byteLength));
      entries[names[position]] = { file, shape: tensor.shape, dtype: tensor.dtype };
      tensor.dispose();
    }
    input.dispose();
    results.push({ outputs: entries });
  }
  fs.writeFileSync(path.join(folder, 'results.json'), JSON.stringify(results));
}

main().catch((error) => {
  console.error(String(error.message || error).split('\n')[0]);
  process.exit(1);
});
