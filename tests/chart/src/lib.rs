//! Tests of `charts/wardring`: what Helm makes of it, and what a real API server makes of that.
