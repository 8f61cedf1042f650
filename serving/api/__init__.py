"""HTTP: one file per noun. Validates, calls submission or the store, renders. Knows no Ray and no torch."""
