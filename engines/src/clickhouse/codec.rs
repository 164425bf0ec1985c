//! Compressed bodies: ClickHouse's own blocks (`decompress=1`, `compress=1`) and gzip.
//!
//! A block is a 16-byte CityHash 1.0.2 checksum over what follows, then one byte for the method, the
//! compressed size including these nine bytes, the original size (both little endian), and the data.
//! Source: <https://clickhouse.com/docs/reference/interfaces/specs/NativeFormat#frame-format>

use std::io::Write;

use super::failure::Failure;

const CHECKSUM: usize = 16;
const HEADER: usize = 9;
const LZ4: u8 = 0x82;
const ZSTD: u8 = 0x90;
const NONE: u8 = 0x02;
/// A block larger than this is refused; ClickHouse's own limit is the same 1 GiB.
const LARGEST_BLOCK: usize = 1 << 30;

/// Undoes the compression of a request's body, piece by piece.
pub enum Decoder {
    Plain,
    Blocks(Vec<u8>),
    Gzip(Box<flate2::write::GzDecoder<Vec<u8>>>),
}

impl Decoder {
    pub fn new(blocks: bool, content_encoding: Option<&str>) -> Result<Self, Failure> {
        match content_encoding {
            None | Some("" | "identity") if blocks => Ok(Self::Blocks(Vec::new())),
            None | Some("" | "identity") => Ok(Self::Plain),
            Some("gzip") if !blocks => Ok(Self::Gzip(Box::new(flate2::write::GzDecoder::new(Vec::new())))),
            Some(other) => Err(Failure::new(
                48,
                "NOT_IMPLEMENTED",
                &format!("Content-Encoding {other} is not supported here, use gzip or decompress=1"),
            )),
        }
    }

    /// Takes the next piece of the body and gives what can be decoded so far.
    pub fn push(&mut self, piece: &[u8]) -> Result<Vec<u8>, Failure> {
        match self {
            Self::Plain => Ok(piece.to_vec()),
            Self::Gzip(decoder) => {
                decoder.write_all(piece).and_then(|()| decoder.flush()).map_err(|error| broken(&error.to_string()))?;
                Ok(std::mem::take(decoder.get_mut()))
            }
            Self::Blocks(pending) => {
                pending.extend_from_slice(piece);
                let (mut out, mut used) = (Vec::new(), 0);
                while let Some(length) = decode_block(&pending[used..], &mut out)? {
                    used += length;
                }
                pending.drain(..used);
                Ok(out)
            }
        }
    }

    /// Gives the rest, and fails when the body ended too early.
    pub fn finish(self) -> Result<Vec<u8>, Failure> {
        match self {
            Self::Plain => Ok(Vec::new()),
            Self::Gzip(decoder) => decoder.finish().map_err(|error| broken(&error.to_string())),
            Self::Blocks(pending) if pending.is_empty() => Ok(Vec::new()),
            Self::Blocks(_) => Err(broken("the last block is cut off")),
        }
    }
}

/// Decodes the first block of `input` if it is complete, and says how long it was.
fn decode_block(input: &[u8], out: &mut Vec<u8>) -> Result<Option<usize>, Failure> {
    let Some(header) = input.get(CHECKSUM..CHECKSUM + HEADER) else { return Ok(None) };
    let size = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize;
    let (compressed, original) = (size(1), size(5));
    if !(HEADER..=LARGEST_BLOCK).contains(&compressed) || original > LARGEST_BLOCK {
        return Err(broken("the size of a block is out of range"));
    }
    let Some(block) = input.get(CHECKSUM..CHECKSUM + compressed) else { return Ok(None) };
    if checksum(block)[..] != input[..CHECKSUM] {
        return Err(Failure::new(40, "CHECKSUM_DOESNT_MATCH", "Checksum doesn't match: corrupted data"));
    }
    let data = &block[HEADER..];
    match header[0] {
        NONE => out.extend_from_slice(data),
        LZ4 => {
            let start = out.len();
            out.resize(start + original, 0);
            let length = lz4_flex::block::decompress_into(data, &mut out[start..]).map_err(|error| broken(&error.to_string()))?;
            if length != original {
                return Err(broken("a block has another size than it says"));
            }
        }
        ZSTD => return Err(Failure::new(48, "NOT_IMPLEMENTED", "zstd blocks are not supported here, use lz4")),
        other => return Err(broken(&format!("unknown compression method {other:#x}"))),
    }
    Ok(Some(CHECKSUM + compressed))
}

/// One block of a response under `compress=1`.
pub fn encode_block(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0; CHECKSUM + HEADER];
    out.extend_from_slice(&lz4_flex::block::compress(data));
    let little_endian = |length: usize| u32::try_from(length).expect("a block of a response is at most 1 MiB").to_le_bytes();
    out[CHECKSUM] = LZ4;
    let compressed = little_endian(out.len() - CHECKSUM);
    out[CHECKSUM + 1..CHECKSUM + 5].copy_from_slice(&compressed);
    out[CHECKSUM + 5..CHECKSUM + HEADER].copy_from_slice(&little_endian(data.len()));
    let sum = checksum(&out[CHECKSUM..]);
    out[..CHECKSUM].copy_from_slice(&sum);
    out
}

/// ClickHouse writes the two halves of the hash the other way round.
fn checksum(block: &[u8]) -> [u8; CHECKSUM] {
    cityhash_rs::cityhash_102_128(block).rotate_right(64).to_le_bytes()
}

fn broken(why: &str) -> Failure {
    Failure::new(271, "CANNOT_DECOMPRESS", &format!("Cannot decompress the body: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_survive_any_cut() {
        let rows: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut body = Vec::new();
        for part in rows.chunks(150_000) {
            body.extend(encode_block(part));
        }
        for cut in [1, 7, 26, 4096, body.len()] {
            let mut decoder = Decoder::new(true, None).expect("known encoding");
            let mut out = Vec::new();
            for piece in body.chunks(cut) {
                out.extend(decoder.push(piece).expect("sound"));
            }
            out.extend(decoder.finish().expect("complete"));
            assert_eq!(out, rows, "cut into {cut}");
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        let mut body = encode_block(b"some rows");
        *body.last_mut().expect("not empty") ^= 1;
        let failure = Decoder::Blocks(Vec::new()).push(&body).expect_err("corrupt");
        assert_eq!(failure.code, 40);
    }
}
