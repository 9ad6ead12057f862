//! With the feature `cuda`: compiles `cuda/*.cu` for the GPU by nvcc, into `OUT_DIR`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_some() {
        gpu::compile();
    }
}

/// Compilation of the kernels.
mod gpu {
    use std::path::{Path, PathBuf};
    use std::process::Command;

    pub(super) fn compile() {
        for variable in ["NVCC", "CUDA_HOME", "CUDA_PATH", "CUDA_COMPUTE_CAP"] {
            println!("cargo::rerun-if-env-changed={variable}");
        }
        println!("cargo::rerun-if-changed=cuda");
        let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
        let capability = compute_capability();
        let mut names = Vec::new();
        for entry in std::fs::read_dir("cuda").expect("the folder of the kernels can be read") {
            let path = entry.expect("the folder of the kernels can be read").path();
            if path.extension().is_some_and(|extension| extension == "cu") {
                let name = path.file_stem().expect("a file has a name").to_str().expect("names are ASCII");
                build(&path, &out.join(format!("{name}.fatbin")), &capability);
                names.push(name.to_owned());
            }
        }
        names.sort();
        std::fs::write(out.join("modules.rs"), table(&names)).expect("OUT_DIR can be written");
    }

    /// Machine code for the GPU asked for, and PTX for later ones.
    fn build(source: &Path, target: &Path, capability: &str) {
        let mut nvcc = Command::new(nvcc());
        nvcc.args(["--fatbin", "-O3", "-std=c++17", "-Xptxas", "-v"]);
        nvcc.arg(format!("-gencode=arch=compute_{capability},code=[sm_{capability},compute_{capability}]"));
        nvcc.arg("-o").arg(target).arg(source);
        match nvcc.output() {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                panic!("nvcc refuses {}:\n{}", source.display(), String::from_utf8_lossy(&output.stderr))
            }
            Err(error) => panic!(
                "nvcc cannot be started ({error}); the feature `cuda` needs a CUDA 13.0 toolkit\nhint: put nvcc on PATH, \
                 or set NVCC or CUDA_HOME"
            ),
        }
    }

    fn nvcc() -> PathBuf {
        if let Some(path) = std::env::var_os("NVCC") {
            return path.into();
        }
        let home = ["CUDA_HOME", "CUDA_PATH"].into_iter().find_map(std::env::var_os);
        home.map_or_else(|| "nvcc".into(), |home| Path::new(&home).join("bin/nvcc"))
    }

    /// `90` for compute capability 9.0, from the environment or the first GPU of this machine.
    fn compute_capability() -> String {
        if let Ok(capability) = std::env::var("CUDA_COMPUTE_CAP") {
            return capability.replace('.', "");
        }
        let query =
            Command::new("nvidia-smi").args(["--query-gpu=compute_cap", "--format=csv,noheader"]).output();
        let answer = query.ok().and_then(|output| String::from_utf8(output.stdout).ok());
        match answer.as_deref().and_then(|text| text.lines().next()) {
            Some(line) if !line.trim().is_empty() => line.trim().replace('.', ""),
            _ => panic!("no GPU answers here\nhint: set CUDA_COMPUTE_CAP, to 90 for an H100 or H200"),
        }
    }

    /// The compiled modules as a table of names and contents.
    fn table(names: &[String]) -> String {
        let row = |name: &String| {
            let code = format!("*include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{name}.fatbin\"))");
            format!("    (\"{name}\", {{ static CODE: &Image<[u8]> = &Image({code}); &CODE.0 }}),\n")
        };
        let rows: String = names.iter().map(row).collect();
        format!(
            "/// Compiled code, which drivers read as words.\n#[repr(C, align(16))]\nstruct Image<T: ?Sized>(T);\n\n\
             /// Modules of kernels: name and compiled code.\nstatic MODULES: &[(&str, &[u8])] = &[\n{rows}];\n"
        )
    }
}
