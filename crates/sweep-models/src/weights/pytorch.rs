//! State dictionaries in PyTorch's zip archives: a pickle that names the tensors, and the bytes of each storage.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::archive::Archive;
use super::file::Problem;
use super::pickle::{self, Id, Value, Values};
use super::shortened;

/// Where a state dictionary may lie in a larger one.
const KEYS: [&str; 2] = ["state_dict", "model"];
/// The function that makes a tensor: storage, offset, size and stride come first among its arguments.
const TENSOR: &str = "torch._utils._rebuild_tensor_v2";
/// Functions around it, and which of their arguments hold the tensor.
const PARAMETER: &str = "torch._utils._rebuild_parameter";
const SUBCLASS: &str = "torch._tensor._rebuild_from_type_v2";
/// Most wrappers around one tensor.
const MOST_WRAPPERS: usize = 4;
/// Most bytes of tensors for each byte of the file: tied weights share a storage, nothing honest shares more.
const MOST_SHARED: u64 = 4;

/// All tensors of an archive under the names they have there.
pub(super) fn read(path: &Path) -> Result<HashMap<String, Tensor>, Problem> {
    let archive = Archive::open(path)?;
    let prefix = prefix(&archive)?;
    let stored = described(&archive, &prefix)?;
    let total = stored.iter().try_fold(0_u64, |sum, stored| sum.checked_add(stored.bytes()));
    let most = archive.length().saturating_mul(MOST_SHARED);
    if total.is_none_or(|total| total > most) {
        let reason =
            format!("its tensors have more than {most} bytes, {MOST_SHARED} times what the file has");
        return Err(Problem::Damaged(reason));
    }
    let mut by_storage: BTreeMap<&str, Vec<&Stored>> = BTreeMap::new();
    for tensor in &stored {
        by_storage.entry(&tensor.storage).or_default().push(tensor);
    }
    let mut tensors = HashMap::with_capacity(stored.len());
    for (storage, stored) in by_storage {
        let bytes = archive.read(&format!("{prefix}data/{storage}"))?;
        for tensor in stored {
            if tensors.insert(tensor.name.clone(), tensor.load(&bytes)?).is_some() {
                return Err(tensor.wrong("it is there twice"));
            }
        }
    }
    Ok(tensors)
}

/// Returns what stands before `data.pkl` in the names of the archive's entries.
fn prefix(archive: &Archive) -> Result<String, Problem> {
    let mut prefixes = archive.names().filter_map(|name| name.strip_suffix("data.pkl"));
    let mut prefixes = prefixes.by_ref().filter(|prefix| prefix.is_empty() || prefix.ends_with('/'));
    match (prefixes.next(), prefixes.next()) {
        (Some(prefix), None) => Ok(prefix.to_owned()),
        (None, _) => Err(Problem::Damaged("it is a zip archive without PyTorch's `data.pkl`".to_owned())),
        _ => Err(Problem::Damaged("it has several entries `data.pkl`".to_owned())),
    }
}

/// Reads the pickle and returns the tensors of its state dictionary, nothing of them loaded yet.
fn described(archive: &Archive, prefix: &str) -> Result<Vec<Stored>, Problem> {
    let name = format!("{prefix}data.pkl");
    let size = archive.size(&name).unwrap_or_default();
    if size > pickle::LONGEST {
        let reason = format!("its pickle has {size} bytes, expected at most {}", pickle::LONGEST);
        return Err(Problem::Damaged(reason));
    }
    let order = format!("{prefix}byteorder");
    if archive.size(&order).is_some() && archive.read(&order)? != b"little" {
        return Err(Problem::Damaged("it comes from a machine of the other byte order".to_owned()));
    }
    let (values, root) = pickle::read(&archive.read(&name)?)?;
    let inner = KEYS.iter().filter_map(|key| entry(&values, root, key));
    for dictionary in inner.chain([root]) {
        let tensors = tensors(&values, dictionary)?;
        if !tensors.is_empty() {
            return Ok(tensors);
        }
    }
    let keys = KEYS.map(|key| format!("`{key}`")).join(" or ");
    Err(Problem::Damaged(format!("no tensors, neither in the dictionary itself nor under {keys}")))
}

/// Returns what a dictionary has under a key.
fn entry(values: &Values, dictionary: Id, key: &str) -> Option<Id> {
    let entries = values.dict(dictionary)?.iter();
    entries.rev().find(|(name, _)| values.text(*name) == Some(key)).map(|(_, value)| *value)
}

fn tensors(values: &Values, dictionary: Id) -> Result<Vec<Stored>, Problem> {
    let mut found = Vec::new();
    for (name, value) in values.dict(dictionary).unwrap_or_default() {
        if let (Some(name), Some(arguments)) = (values.text(*name), arguments(values, *value)) {
            let wrong = |reason| Problem::Damaged(format!("`{}`: {reason}", shortened(name)));
            found.push(Stored::new(values, name, arguments).map_err(wrong)?);
        }
    }
    Ok(found)
}

/// Returns the arguments that a tensor is made of, out of its wrappers; `None` for what is no tensor.
fn arguments(values: &Values, value: Id) -> Option<&[Id]> {
    let mut call = values.call(value)?;
    for _ in 0..=MOST_WRAPPERS {
        let (function, arguments) = call;
        match function {
            TENSOR => return Some(arguments),
            PARAMETER => call = values.call(*arguments.first()?)?,
            SUBCLASS => {
                let Value::Global(function) = values.get(*arguments.first()?) else { return None };
                call = (function, values.tuple(*arguments.get(2)?)?);
            }
            _ => return None,
        }
    }
    None
}

/// How the elements of a storage are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Element {
    /// As candle has them.
    Plain(DType),
    /// Signed integers of so many bytes, which become I64.
    Integer(usize),
}

impl Element {
    fn of(class: &str) -> Option<Self> {
        Some(match class {
            "torch.DoubleStorage" => Self::Plain(DType::F64),
            "torch.FloatStorage" => Self::Plain(DType::F32),
            "torch.HalfStorage" => Self::Plain(DType::F16),
            "torch.BFloat16Storage" => Self::Plain(DType::BF16),
            "torch.LongStorage" => Self::Plain(DType::I64),
            "torch.ByteStorage" | "torch.BoolStorage" => Self::Plain(DType::U8),
            "torch.IntStorage" => Self::Integer(4),
            "torch.ShortStorage" => Self::Integer(2),
            "torch.CharStorage" => Self::Integer(1),
            _ => return None,
        })
    }

    fn size(self) -> usize {
        match self {
            Self::Plain(dtype) => dtype.size_in_bytes(),
            Self::Integer(size) => size,
        }
    }
}

/// A tensor as the pickle describes it.
#[derive(Debug)]
struct Stored {
    name: String,
    storage: String,
    element: Element,
    /// Elements of the storage before the first one.
    offset: usize,
    shape: Vec<usize>,
    /// Elements from one index to the next, of each dimension.
    stride: Vec<usize>,
    /// Elements: the product of `shape`.
    count: usize,
}

impl Stored {
    fn new(values: &Values, name: &str, arguments: &[Id]) -> Result<Self, &'static str> {
        let [storage, offset, size, stride, ..] = arguments else { return Err("it has too few arguments") };
        let Value::Outside(storage) = values.get(*storage) else { return Err("it has no storage") };
        let [_, class, key, ..] = values.tuple(*storage).unwrap_or_default() else {
            return Err("its storage is not described");
        };
        let Value::Global(class) = values.get(*class) else { return Err("its storage has no type") };
        let element = Element::of(class).ok_or("its numbers are of a type that is not read here")?;
        let storage = values.text(*key).ok_or("its storage has no name")?.to_owned();
        let number = |id: Id| values.int(id).and_then(|number| usize::try_from(number).ok());
        let offset = number(*offset).ok_or("its offset is no number of elements")?;
        let numbers = |id: Id| values.tuple(id)?.iter().map(|id| number(*id)).collect::<Option<Vec<_>>>();
        let shape = numbers(*size).ok_or("its shape is not one of numbers from 0 on")?;
        let stride = numbers(*stride).ok_or("its strides are not numbers from 0 on")?;
        if shape.len() != stride.len() {
            return Err("it has not as many strides as dimensions");
        }
        let count = shape.iter().try_fold(1_usize, |count, size| count.checked_mul(*size));
        let count = count.ok_or("its shape has more elements than can be counted")?;
        Ok(Self { name: name.to_owned(), storage, element, offset, shape, stride, count })
    }

    fn wrong(&self, reason: &str) -> Problem {
        Problem::Damaged(format!("`{}`: {reason}", shortened(&self.name)))
    }

    fn bytes(&self) -> u64 {
        (self.count as u64).saturating_mul(self.element.size() as u64)
    }

    /// The element of the storage after the last one that the tensor has; `None` beyond what can be counted.
    fn end(&self) -> Option<usize> {
        if self.count == 0 {
            return Some(0);
        }
        let mut steps = self.shape.iter().zip(&self.stride);
        let last = steps
            .try_fold(self.offset, |end, (size, stride)| end.checked_add((size - 1).checked_mul(*stride)?))?;
        last.checked_add(1)
    }

    /// Cuts the tensor out of the bytes of its storage.
    fn load(&self, storage: &[u8]) -> Result<Tensor, Problem> {
        let size = self.element.size();
        let available = storage.len() / size;
        if self.end().is_none_or(|end| end > available) || self.count > available {
            let (shape, stride) = (&self.shape, &self.stride);
            return Err(self.wrong(&format!(
                "shape {shape:?}, strides {stride:?} and offset {} do not lie within a storage of {available} elements",
                self.offset
            )));
        }
        let bytes = self.gather(storage);
        let tensor = match self.element {
            Element::Plain(dtype) => Tensor::from_raw_buffer(&bytes, dtype, &self.shape, &Device::Cpu),
            Element::Integer(size) => {
                let numbers: Vec<i64> = bytes.chunks_exact(size).map(integer).collect();
                Tensor::from_vec(numbers, self.shape.as_slice(), &Device::Cpu)
            }
        };
        tensor.map_err(|error| self.wrong(&error.to_string()))
    }

    /// The bytes of the elements in the order of their indices.
    fn gather(&self, storage: &[u8]) -> Vec<u8> {
        let size = self.element.size();
        if self.count == 0 {
            return Vec::new();
        }
        if self.is_contiguous() {
            return storage[self.offset * size..][..self.count * size].to_vec();
        }
        let mut bytes = Vec::with_capacity(self.count * size);
        let mut index = vec![0; self.shape.len()];
        for _ in 0..self.count {
            let steps = index.iter().zip(&self.stride).map(|(index, stride)| index * stride);
            let element = self.offset + steps.sum::<usize>();
            bytes.extend_from_slice(&storage[element * size..][..size]);
            for (index, size) in index.iter_mut().zip(&self.shape).rev() {
                *index += 1;
                if *index < *size {
                    break;
                }
                *index = 0;
            }
        }
        bytes
    }

    fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        let mut dimensions = self.shape.iter().zip(&self.stride).rev();
        dimensions.all(|(size, stride)| {
            let fits = *size == 1 || *stride == expected;
            expected *= size;
            fits
        })
    }
}

/// A little-endian number in two's complement, of at most eight bytes.
fn integer(bytes: &[u8]) -> i64 {
    let negative = bytes.last().is_some_and(|byte| *byte >= 0x80);
    let start = if negative { -1 } else { 0 };
    bytes.iter().rev().fold(start, |number, byte| number << 8 | i64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(shape: &[usize], stride: &[usize], offset: usize) -> Stored {
        let element = Element::Integer(1);
        let (shape, stride, count) = (shape.to_vec(), stride.to_vec(), shape.iter().product());
        Stored { name: "x".to_owned(), storage: "0".to_owned(), element, offset, shape, stride, count }
    }

    #[test]
    fn strides_put_elements_in_order() {
        let load = |stored: Stored| {
            let tensor = stored.load(&[0, 1, 2, 3, 4, 5, 0xfe])?;
            Ok::<_, Problem>(tensor.flatten_all().unwrap().to_vec1::<i64>().unwrap())
        };
        assert_eq!(load(stored(&[2, 3], &[3, 1], 0)).unwrap(), [0, 1, 2, 3, 4, 5]);
        assert_eq!(load(stored(&[3, 2], &[1, 3], 1)).unwrap(), [1, 4, 2, 5, 3, -2]);
        assert_eq!(load(stored(&[2, 1, 2], &[2, 77, 1], 2)).unwrap(), [2, 3, 4, 5]);
        assert_eq!(load(stored(&[], &[], 6)).unwrap(), [-2]);
        assert_eq!(load(stored(&[0, 9], &[9, 1], 0)).unwrap(), [0_i64; 0]);
    }

    #[test]
    fn what_lies_outside_the_storage_is_refused() {
        let largest = usize::MAX;
        for (shape, stride, offset) in [
            (vec![8], vec![1], 0),
            (vec![1], vec![1], 7),
            (vec![2], vec![7], 0),
            (vec![2], vec![largest], 0),
            (vec![2], vec![1], largest),
            (vec![1000], vec![0], 0),
        ] {
            let problem = stored(&shape, &stride, offset).load(&[0; 7]).unwrap_err().to_string();
            assert!(
                problem.contains("`x`") && problem.contains("within a storage of 7 elements"),
                "{problem}"
            );
        }
    }

    #[test]
    fn integers_keep_their_sign() {
        assert_eq!(integer(&[0xff, 0xff]), -1);
        assert_eq!(integer(&[0, 0x80]), -32_768);
        assert_eq!(integer(&[1, 2, 0, 0]), 513);
    }
}
