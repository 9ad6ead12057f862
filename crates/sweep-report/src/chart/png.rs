//! From SVG to pixels, with a font that the program carries: the same on every machine, fonts installed or not.

use std::sync::{Arc, LazyLock};

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb};

use crate::error::{Error, Result};

static FONTS: LazyLock<Arc<fontdb::Database>> = LazyLock::new(|| {
    let mut fonts = fontdb::Database::new();
    fonts.load_font_data(dejavu::sans::regular().to_vec());
    fonts.load_font_data(dejavu::sans::bold().to_vec());
    fonts.set_sans_serif_family("DejaVu Sans");
    Arc::new(fonts)
});

/// Largest side of a picture, in pixels; a larger drawing is made smaller.
const LARGEST: f32 = 12_000.0;

/// Returns a drawing as a PNG file with so many pixels a unit.
pub(crate) fn of(figure: &'static str, svg: &str, pixels: f32) -> Result<Vec<u8>> {
    let failed = |reason: String| Error::Pixels { figure, reason };
    let options = Options { fontdb: Arc::clone(&FONTS), ..Options::default() };
    let tree = Tree::from_str(svg, &options).map_err(|error| failed(error.to_string()))?;
    let size = tree.size();
    let scale = pixels.min(LARGEST / size.width().max(size.height()));
    let side = |units: f32| (units * scale).ceil() as u32;
    let mut picture = Pixmap::new(side(size.width()), side(size.height()))
        .ok_or_else(|| failed("the drawing is empty".to_owned()))?;
    resvg::render(&tree, Transform::from_scale(scale, scale), &mut picture.as_mut());
    picture.encode_png().map_err(|error| failed(error.to_string()))
}
