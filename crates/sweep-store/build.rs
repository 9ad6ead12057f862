//! Rebuilds the crate when a migration changes: `sqlx::migrate!` embeds the files but cannot watch the folder.

fn main() {
    println!("cargo::rerun-if-changed=../../migrations");
}
