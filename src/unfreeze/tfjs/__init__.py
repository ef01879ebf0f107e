"""Graph models of TensorFlow.js: written from a frozen graph, and run in Node.js."""
