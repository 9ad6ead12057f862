//! Pickles as PyTorch writes them, read into values without running anything: what a pickle would call is only noted.
//!
//! Opcodes are those of Python's `pickletools`, protocols 2 to 5. Values lie in one list and name each other by
//! position, so that a value which is used a thousand times is kept once, and one which contains itself is no danger.

use std::collections::HashMap;

use super::file::Problem;

/// Longest pickle; that of a checkpoint with ten thousand tensors has 3 MiB.
pub(super) const LONGEST: u64 = 16 << 20;
/// Most values, places on the stack and in the memo.
const MOST_VALUES: usize = 4_000_000;

/// Position of a value.
pub(super) type Id = usize;

/// A value as far as state dictionaries need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Int(i64),
    Text(String),
    /// A class or function: module and name, with a dot between.
    Global(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// What a function would have made of arguments.
    Call {
        function: Id,
        arguments: Id,
    },
    /// Something that lies outside of the pickle: a storage.
    Outside(Id),
    /// Anything else.
    Opaque,
}

/// All values of a pickle.
#[derive(Debug, Default)]
pub(super) struct Values(Vec<Value>);

impl Values {
    pub(super) fn get(&self, id: Id) -> &Value {
        &self.0[id]
    }

    pub(super) fn text(&self, id: Id) -> Option<&str> {
        if let Value::Text(text) = self.get(id) { Some(text) } else { None }
    }

    pub(super) fn int(&self, id: Id) -> Option<i64> {
        if let Value::Int(number) = self.get(id) { Some(*number) } else { None }
    }

    pub(super) fn tuple(&self, id: Id) -> Option<&[Id]> {
        if let Value::Tuple(items) = self.get(id) { Some(items) } else { None }
    }

    pub(super) fn dict(&self, id: Id) -> Option<&[(Id, Id)]> {
        if let Value::Dict(entries) = self.get(id) { Some(entries) } else { None }
    }

    /// Returns the function's name and the arguments of a call.
    pub(super) fn call(&self, id: Id) -> Option<(&str, &[Id])> {
        let Value::Call { function, arguments } = self.get(id) else { return None };
        let Value::Global(name) = self.get(*function) else { return None };
        Some((name, self.tuple(*arguments)?))
    }
}

/// Reads a pickle; returns all of its values and the position of the one it stands for.
pub(super) fn read(bytes: &[u8]) -> Result<(Values, Id), Problem> {
    let mut machine = Machine { bytes, position: 0, ..Machine::default() };
    loop {
        let position = machine.position;
        match machine.step() {
            Ok(None) => {}
            Ok(Some(root)) => return Ok((machine.values, root)),
            Err(fault) => {
                return Err(Problem::Damaged(format!("its pickle, byte {position}: {fault}")));
            }
        }
    }
}

/// Why a step cannot be taken.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum Fault {
    #[error("it breaks off")]
    End,
    #[error("unknown opcode {0:#04x}")]
    Opcode(u8),
    #[error("an operand is missing")]
    Operand,
    #[error("an operand is of another kind than the opcode needs")]
    Kind,
    #[error("a text is not UTF-8")]
    Text,
    #[error("it has more than {MOST_VALUES} values")]
    Many,
}

#[derive(Default)]
struct Machine<'a> {
    bytes: &'a [u8],
    position: usize,
    values: Values,
    stack: Vec<Id>,
    /// Heights of the stack at the marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    /// Carries out one opcode; returns the whole's value at the end.
    fn step(&mut self) -> Result<Option<Id>, Fault> {
        let [opcode] = self.array()?;
        match opcode {
            b'.' => return self.pop().map(Some),
            0x80 => drop(self.array::<1>()?),
            0x95 => drop(self.array::<8>()?),
            b'(' => self.mark()?,
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_to_mark()?),
            b'2' => self.push_id(*self.stack.last().ok_or(Fault::Operand)?)?,
            b'N' | 0x88 | 0x89 | 0x8f => self.push(Value::Opaque)?,
            b'q' | b'r' | 0x94 | b'h' | b'j' => self.remember(opcode)?,
            b'J' | b'K' | b'M' | 0x8a | 0x8b | b'G' => self.number(opcode)?,
            b'X' | 0x8c | 0x8d | b'U' | b'T' | b'C' | b'B' | 0x8e => self.string(opcode)?,
            b')' => self.push(Value::Tuple(Vec::new()))?,
            b']' => self.push(Value::List(Vec::new()))?,
            b'}' => self.push(Value::Dict(Vec::new()))?,
            b't' | 0x85..=0x87 | b'l' | b'd' | 0x91 => self.collect(opcode)?,
            b'a' | b'e' | b's' | b'u' | 0x90 => self.extend(opcode)?,
            b'c' | 0x93 => self.global(opcode)?,
            b'R' | 0x81 | 0x92 | b'b' | b'Q' => self.call(opcode)?,
            other => return Err(Fault::Opcode(other)),
        }
        Ok(None)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let rest = &self.bytes[self.position..];
        let taken = rest.get(..count).ok_or(Fault::End)?;
        self.position += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        self.take(N)?.try_into().map_err(|_| Fault::End)
    }

    fn line(&mut self) -> Result<String, Fault> {
        let rest = &self.bytes[self.position..];
        let length = rest.iter().position(|byte| *byte == b'\n').ok_or(Fault::End)?;
        let line = text(self.take(length)?)?;
        self.position += 1;
        Ok(line)
    }

    fn push(&mut self, value: Value) -> Result<(), Fault> {
        self.values.0.push(value);
        self.push_id(self.values.0.len() - 1)
    }

    fn push_id(&mut self, id: Id) -> Result<(), Fault> {
        self.stack.push(id);
        let most = [self.values.0.len(), self.stack.len(), self.memo.len(), self.marks.len()];
        if most.into_iter().any(|count| count > MOST_VALUES) { Err(Fault::Many) } else { Ok(()) }
    }

    fn pop(&mut self) -> Result<Id, Fault> {
        if self.marks.last().is_some_and(|mark| *mark >= self.stack.len()) {
            return Err(Fault::Operand);
        }
        self.stack.pop().ok_or(Fault::Operand)
    }

    fn mark(&mut self) -> Result<(), Fault> {
        self.marks.push(self.stack.len());
        if self.marks.len() > MOST_VALUES { Err(Fault::Many) } else { Ok(()) }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, Fault> {
        let mark = self.marks.pop().ok_or(Fault::Operand)?;
        // A mark lies below all that was pushed after it, and `pop` takes nothing from below.
        Ok(self.stack.split_off(mark))
    }

    fn remember(&mut self, opcode: u8) -> Result<(), Fault> {
        let index = match opcode {
            b'q' | b'h' => u32::from(self.array::<1>()?[0]),
            0x94 => self.memo.len() as u32,
            _ => u32::from_le_bytes(self.array()?),
        };
        if matches!(opcode, b'h' | b'j') {
            return self.push_id(*self.memo.get(&index).ok_or(Fault::Operand)?);
        }
        self.memo.insert(index, *self.stack.last().ok_or(Fault::Operand)?);
        if self.memo.len() > MOST_VALUES { Err(Fault::Many) } else { Ok(()) }
    }

    fn number(&mut self, opcode: u8) -> Result<(), Fault> {
        let number = match opcode {
            b'J' => i32::from_le_bytes(self.array()?).into(),
            b'K' => self.array::<1>()?[0].into(),
            b'M' => u16::from_le_bytes(self.array()?).into(),
            b'G' => {
                self.take(8)?;
                return self.push(Value::Opaque);
            }
            _ => {
                let length = self.length(if opcode == 0x8a { 1 } else { 4 })?;
                // No number that a state dictionary needs is longer than 64 bits.
                match long(self.take(length)?) {
                    Some(number) => number,
                    None => return self.push(Value::Opaque),
                }
            }
        };
        self.push(Value::Int(number))
    }

    /// Reads a length of `width` bytes.
    fn length(&mut self, width: usize) -> Result<usize, Fault> {
        let mut bytes = [0; 8];
        bytes[..width].copy_from_slice(self.take(width)?);
        usize::try_from(u64::from_le_bytes(bytes)).map_err(|_| Fault::End)
    }

    fn string(&mut self, opcode: u8) -> Result<(), Fault> {
        let width = match opcode {
            0x8c | b'U' | b'C' => 1,
            b'X' | b'T' | b'B' => 4,
            _ => 8,
        };
        let length = self.length(width)?;
        let bytes = self.take(length)?;
        match opcode {
            b'C' | b'B' | 0x8e => self.push(Value::Opaque),
            // Python 2 wrote texts as bytes of no known encoding; those of other than ASCII name nothing here.
            b'U' | b'T' => self.push(text(bytes).map_or(Value::Opaque, Value::Text)),
            _ => self.push(Value::Text(text(bytes)?)),
        }
    }

    fn collect(&mut self, opcode: u8) -> Result<(), Fault> {
        let items = match opcode {
            0x85..=0x87 => {
                let count = usize::from(opcode - 0x84);
                let mut items = (0..count).map(|_| self.pop()).collect::<Result<Vec<Id>, Fault>>()?;
                items.reverse();
                items
            }
            _ => self.pop_to_mark()?,
        };
        self.push(match opcode {
            b'l' => Value::List(items),
            b'd' => Value::Dict(pairs(&items)?),
            0x91 => Value::Opaque,
            _ => Value::Tuple(items),
        })
    }

    /// Puts items into the container below them.
    fn extend(&mut self, opcode: u8) -> Result<(), Fault> {
        let items = match opcode {
            b'a' => vec![self.pop()?],
            b's' => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
            _ => self.pop_to_mark()?,
        };
        let container = *self.stack.last().ok_or(Fault::Operand)?;
        match (&mut self.values.0[container], opcode) {
            (Value::List(list), b'a' | b'e') => list.extend(items),
            (Value::Dict(entries), b's' | b'u') => entries.extend(pairs(&items)?),
            // Objects of classes that are not known here may be filled like lists, dictionaries and sets.
            (Value::Opaque | Value::Call { .. }, _) => {}
            _ => return Err(Fault::Kind),
        }
        Ok(())
    }

    fn global(&mut self, opcode: u8) -> Result<(), Fault> {
        let (module, name) = if opcode == b'c' {
            (self.line()?, self.line()?)
        } else {
            let (name, module) = (self.pop()?, self.pop()?);
            let text = |id| self.values.text(id).map(str::to_owned).ok_or(Fault::Kind);
            (text(module)?, text(name)?)
        };
        self.push(Value::Global(format!("{module}.{name}")))
    }

    fn call(&mut self, opcode: u8) -> Result<(), Fault> {
        match opcode {
            b'Q' => {
                let what = self.pop()?;
                self.push(Value::Outside(what))
            }
            // An object's state; dictionaries carry some that is of no use here.
            b'b' => self.pop().map(drop),
            _ => {
                if opcode == 0x92 {
                    self.pop()?;
                }
                let arguments = self.pop()?;
                let function = self.pop()?;
                let is_dictionary =
                    |name: &str| matches!(name, "collections.OrderedDict" | "collections.defaultdict");
                self.push(match &self.values.0[function] {
                    Value::Global(name) if is_dictionary(name) => Value::Dict(Vec::new()),
                    _ => Value::Call { function, arguments },
                })
            }
        }
    }
}

fn text(bytes: &[u8]) -> Result<String, Fault> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Fault::Text)
}

fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>, Fault> {
    let (pairs, rest) = items.as_chunks::<2>();
    if rest.is_empty() {
        Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect())
    } else {
        Err(Fault::Operand)
    }
}

/// A little-endian number in two's complement, if it has no more than 64 bits.
fn long(bytes: &[u8]) -> Option<i64> {
    let sign = if bytes.last().is_some_and(|byte| *byte >= 0x80) { 0xff } else { 0 };
    let mut wide = [sign; 8];
    wide.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(i64::from_le_bytes(wide))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(bytes: &[u8]) -> String {
        read(bytes).unwrap_err().to_string()
    }

    #[test]
    fn what_breaks_off_or_lacks_operands_is_refused_at_its_byte() {
        let cases: [(&[u8], &str); 12] = [
            (b"", "byte 0: it breaks off"),
            (b"\x80", "byte 0: it breaks off"),
            (b"\x80\x02.", "byte 2: an operand is missing"),
            (b"\x80\x02\xf7", "byte 2: unknown opcode 0xf7"),
            (b"K\x01.", ""),
            (b"X\xff\xff\xff\xffabc", "byte 0: it breaks off"),
            (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc", "byte 0: it breaks off"),
            (b"X\x01\0\0\0\xff.", "byte 0: a text is not UTF-8"),
            (b"(K\x01u", "byte 3: an operand is missing"),
            (b"K\x01(0", "byte 3: an operand is missing"),
            (b"K\x01K\x02a", "byte 4: an operand is of another kind"),
            (b"h\x07", "byte 0: an operand is missing"),
        ];
        for (bytes, expected) in cases {
            match read(bytes) {
                Ok(_) => assert!(expected.is_empty(), "{bytes:?} was read"),
                Err(problem) => assert!(problem.to_string().contains(expected), "{bytes:?}: {problem}"),
            }
        }
    }

    #[test]
    fn what_doubles_itself_stays_small() {
        // A tuple of two tuples of two tuples …, each the one before: 2^1000 values if they were copied.
        let doubled = [b"q\0h\0\x86".as_slice(); 1000].concat();
        let (values, _) = read(&[b")".as_slice(), &doubled, b"."].concat()).unwrap();
        assert_eq!(values.0.len(), 1001);
    }

    #[test]
    fn depth_costs_nothing() {
        let deep = [b"]".to_vec(), vec![0x85; 1_000_000], b".".to_vec()].concat();
        assert_eq!(read(&deep).unwrap().1, 1_000_000);
    }

    #[test]
    fn a_list_within_itself_is_a_value_like_others() {
        let (values, root) = read(b"]q\0h\0a.").unwrap();
        assert_eq!(*values.get(root), Value::List(vec![root]));
    }

    #[test]
    fn more_values_than_any_checkpoint_has_are_refused() {
        for opcode in [b")", b"(", b"N"] {
            assert!(fault(&opcode.repeat(MOST_VALUES + 1)).contains("more than 4000000 values"));
        }
        assert!(fault(&[b"N".as_slice(), &b"2".repeat(MOST_VALUES + 1)].concat()).contains("more than"));
    }

    #[test]
    fn numbers_of_any_length() {
        let number = |bytes: &[u8]| {
            let (values, root) = read(&[bytes, b"."].concat()).unwrap();
            values.int(root)
        };
        assert_eq!(number(b"J\xff\xff\xff\xff"), Some(-1));
        assert_eq!(number(b"\x8a\0"), Some(0));
        assert_eq!(number(b"\x8a\x02\0\x80"), Some(-32_768));
        assert_eq!(number(b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f"), Some(i64::MAX));
        assert_eq!(number(b"\x8a\x09\0\0\0\0\0\0\0\0\x01"), None);
        assert_eq!(number(b"\x8b\x01\0\0\0\x07"), Some(7));
    }
}
