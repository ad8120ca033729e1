//! ZooKeeper's encoding of integers, strings, buffers and counts: big-endian, a length before
//! variable data, −1 for null (jute's binary archive). Reads take bytes off the front of a slice,
//! name the field that was short, and allocate nothing by a length from the peer before its bytes
//! have arrived.

/// The largest frame that is accepted. Servers refuse requests over 1 MB (`jute.maxbuffer`), and no
/// reply here is longer than a node.
pub const LARGEST_FRAME: usize = 4 << 20;

/// Why bytes are not a valid record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// The bytes ended inside this field.
    Short(&'static str),
    /// An impossible length or count: negative other than −1, or more than the remaining bytes.
    Length(&'static str, i32),
    /// A string that is not UTF-8.
    Text(&'static str),
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Malformed::Short(field) => write!(f, "message ends inside {field}"),
            Malformed::Length(field, length) => {
                write!(f, "{field} has an impossible length {length}")
            }
            Malformed::Text(field) => write!(f, "{field} is not UTF-8"),
        }
    }
}

/// A value with an encoding. `field` names it in an error.
pub trait Wire: Sized {
    /// Appends the encoding.
    fn write(&self, out: &mut Vec<u8>);
    /// Decodes a value off the front of `from`.
    fn read(from: &mut &[u8], field: &'static str) -> Result<Self, Malformed>;
}

/// Takes `count` bytes off the front.
fn take<'a>(from: &mut &'a [u8], count: usize, field: &'static str) -> Result<&'a [u8], Malformed> {
    let (front, rest) = from
        .split_at_checked(count)
        .ok_or(Malformed::Short(field))?;
    *from = rest;
    Ok(front)
}

/// A length or count: `None` for −1 (null). `unit` is the minimum size of one item, so that a count
/// that exceeds the remaining bytes is refused before it is used.
fn length(from: &mut &[u8], unit: usize, field: &'static str) -> Result<Option<usize>, Malformed> {
    let claimed = i32::read(from, field)?;
    match usize::try_from(claimed) {
        Ok(count) if count <= from.len() / unit => Ok(Some(count)),
        Ok(_) => Err(Malformed::Length(field, claimed)),
        Err(_) if claimed == -1 => Ok(None),
        Err(_) => Err(Malformed::Length(field, claimed)),
    }
}

/// Appends a length. What this program sends is far shorter (paths, a host name, a uuid).
fn write_length(length: usize, out: &mut Vec<u8>) {
    i32::try_from(length)
        .expect("requests are bounded below 1 MB")
        .write(out);
}

macro_rules! integer {
    ($($integer:ty)*) => {$(
        impl Wire for $integer {
            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_be_bytes());
            }
            fn read(from: &mut &[u8], field: &'static str) -> Result<Self, Malformed> {
                let bytes = take(from, size_of::<$integer>(), field)?;
                Ok(<$integer>::from_be_bytes(bytes.try_into().expect("take returns as many bytes as asked")))
            }
        }
    )*};
}

integer! { i32 i64 }

impl Wire for bool {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn read(from: &mut &[u8], field: &'static str) -> Result<Self, Malformed> {
        Ok(take(from, 1, field)?[0] != 0)
    }
}

/// jute's `buffer`. Null is read as empty: no record here distinguishes them.
impl Wire for Vec<u8> {
    fn write(&self, out: &mut Vec<u8>) {
        write_length(self.len(), out);
        out.extend_from_slice(self);
    }
    fn read(from: &mut &[u8], field: &'static str) -> Result<Self, Malformed> {
        let length = length(from, 1, field)?.unwrap_or(0);
        Ok(take(from, length, field)?.to_vec())
    }
}

/// jute's `ustring`.
impl Wire for String {
    fn write(&self, out: &mut Vec<u8>) {
        write_length(self.len(), out);
        out.extend_from_slice(self.as_bytes());
    }
    fn read(from: &mut &[u8], field: &'static str) -> Result<Self, Malformed> {
        String::from_utf8(Wire::read(from, field)?).map_err(|_| Malformed::Text(field))
    }
}

/// A jute `vector`. A separate type, because a vector of bytes is a `buffer`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vector<T>(pub Vec<T>);

/// The minimum size of one item of a vector: every item used here holds at least one integer.
const SMALLEST_ITEM: usize = 4;

impl<T: Wire> Wire for Vector<T> {
    fn write(&self, out: &mut Vec<u8>) {
        write_length(self.0.len(), out);
        self.0.iter().for_each(|item| item.write(out));
    }
    fn read(from: &mut &[u8], field: &'static str) -> Result<Self, Malformed> {
        let count = length(from, SMALLEST_ITEM, field)?.unwrap_or(0);
        (0..count)
            .map(|_| T::read(from, field))
            .collect::<Result<_, _>>()
            .map(Vector)
    }
}

/// Appends a frame: a length of four bytes, then the output of `write`.
pub fn frame(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    i32::MAX.write(out); // a half-written frame is refused, not misread
    write(out);
    let length = i32::try_from(out.len() - start - 4).expect("requests are bounded below 1 MB");
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// Takes one frame off the front, if it is complete. The error is an invalid length.
pub fn next_frame<'a>(bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, i32> {
    let Some((head, rest)) = bytes.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let claimed = i32::from_be_bytes(*head);
    let length = usize::try_from(claimed)
        .ok()
        .filter(|length| (1..=LARGEST_FRAME).contains(length))
        .ok_or(claimed)?;
    Ok(rest.split_at_checked(length).map(|(frame, rest)| {
        *bytes = rest;
        frame
    }))
}
