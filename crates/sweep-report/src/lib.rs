//! From stored results to what a paper shows: tables, figures and one HTML page. Reads the store, never writes it.
