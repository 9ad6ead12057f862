//! Results in the forms of other programs: Parquet for data frames, a folder for MLflow.

pub mod mlflow;
mod parquet_file;

pub use parquet_file::parquet;
