//! Files of format version 1 that every later lockgate must read, and that another
//! implementation of AES-GCM and the layout as documented can read too.

use std::collections::BTreeMap;
use std::fs;

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use aws_lc_rs::hmac;

use super::*;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/spool/golden");
const FILES: [&str; 2] = ["00000001.seg", "00000001.marks"];

/// The messages of the golden files.
fn hold_golden(bench: &mut Bench) {
    bench.hold(0x0001_0203_0405_0607, 2, b"Subject: golden\r\n\r\n..dot\r\n").unwrap();
    bench.hold(0x0001_0203_0405_0608, 1, &data(2, 66_000)).unwrap();
    bench.mark(spool_id(0x0001_0203_0405_0607), 1, due()).unwrap();
    bench.mark(spool_id(0x0001_0203_0405_0608), 0, OFFERED).unwrap();
}

/// Writes the golden files if there are none. They are made once per format version, and a
/// change of the layout that a reader of version 1 cannot follow needs a new version.
fn golden() -> BTreeMap<&'static str, Vec<u8>> {
    let folder = Path::new(FOLDER);
    if FILES.iter().any(|name| !folder.join(name).exists()) {
        let disk = FaultyDisk::default();
        let mut bench = Bench::open(&disk);
        hold_golden(&mut bench);
        bench.close();
        for name in FILES {
            let bytes = disk.read(&Path::new("spool").join(name)).unwrap();
            fs::write(folder.join(name), bytes).unwrap();
        }
    }
    FILES.iter().map(|name| (*name, fs::read(folder.join(name)).unwrap())).collect()
}

#[test]
fn golden_files_of_version_1_are_read() {
    let disk = FaultyDisk::default();
    disk.make_dir(Path::new("spool")).unwrap();
    for (name, bytes) in golden() {
        disk.publish(&Path::new("spool").join(name), &bytes).unwrap();
    }
    let bench = Bench::open(&disk);
    assert_eq!(bench.ids(), [0x0001_0203_0405_0607, 0x0001_0203_0405_0608]);
    assert!(bench.report.damaged.is_empty() && bench.report.set_aside.is_empty());
    let first = read_all(&bench.spool, 0x0001_0203_0405_0607).unwrap();
    assert_eq!(first, b"Subject: golden\r\n\r\n..dot\r\n");
    assert_eq!(read_all(&bench.spool, 0x0001_0203_0405_0608).unwrap(), data(2, 66_000));
    let message = bench.spool.load(&spool_id(0x0001_0203_0405_0607)).unwrap();
    assert_eq!(message.envelope, envelope(2));
    assert_eq!(message.arrival, arrival());
    assert_eq!(message.paths, [PathState::FRESH, PathState::FRESH.after(&due())]);
    assert_eq!(bench.states(0x0001_0203_0405_0608), [PathState::FRESH.after(&OFFERED)]);
}

/// HKDF-SHA256 (RFC 5869) for one block, written out.
fn data_key(salt: &[u8], info: &[u8]) -> [u8; 32] {
    let sign = |key: &[u8], text: &[u8]| {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec()
    };
    let extracted = sign(salt, &[7; 32]);
    sign(&extracted, &[info, &[1]].concat()).try_into().unwrap()
}

fn open(key: &[u8; 32], counter: u64, aad: &[u8], sealed: &[u8]) -> Vec<u8> {
    let cipher = Aes256Gcm::new(&(*key).into());
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&counter.to_le_bytes());
    cipher.decrypt(&Nonce::from(nonce), Payload { msg: sealed, aad }).unwrap()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Goal: the segment is what `docs/SPOOL.md` says, not what our own reader forgives.
/// Method: offsets written out by hand, and the `aes-gcm` crate in place of aws-lc.
#[test]
fn golden_segment_opens_with_another_implementation() {
    let bytes = &golden()["00000001.seg"];
    assert_eq!(&bytes[..8], b"LGSPOOL\0");
    assert_eq!((u32_at(bytes, 8), u32_at(bytes, 12), u32_at(bytes, 16)), (1, 512, 1));
    assert_eq!(u32_at(bytes, 508), crc32c::crc32c(&bytes[..508]));
    assert_eq!(&bytes[64..73], b"\x08outbound");
    let key = data_key(&bytes[32..64], b"lockgate spool v1");
    let mut kinds = Vec::new();
    let mut offset = 512;
    while offset < bytes.len() {
        let header = &bytes[offset..offset + 64];
        assert_eq!(&header[..4], b"LGfr");
        let body = &bytes[offset + 64..offset + 64 + u32_at(header, 8) as usize];
        assert_eq!(u32_at(header, 56), crc32c::crc32c(body));
        assert_eq!(u32_at(header, 60), crc32c::crc32c(&header[..60]));
        assert_eq!(u64_at(header, 16), kinds.len() as u64, "counters rise by one");
        let kind = header[4];
        kinds.push(kind);
        offset += 64 + body.len();
        if kind >= 5 {
            assert_eq!(body.len(), 8 * u32_at(header, 48) as usize);
            continue;
        }
        let aad = [&1_u32.to_le_bytes(), &header[..56]].concat();
        let text = open(&key, u64_at(header, 16), &aad, body);
        if kind == 1 {
            let beginning = u32_at(&text, 0) as usize;
            let octets = usize::try_from(u64_at(header, 32)).unwrap();
            let data = &text[4 + beginning..4 + beginning + octets];
            assert_eq!(data, b"Subject: golden\r\n\r\n..dot\r\n");
            assert_eq!(&text[4 + beginning + octets..], b"<id@example.org>\x10\0");
        }
    }
    assert_eq!(kinds, [1, 5, 2, 3, 4, 5, 6]);
}

#[test]
fn golden_marks_open_with_another_implementation() {
    let bytes = &golden()["00000001.marks"];
    let records = disk::log::scan(bytes).records;
    let payloads: Vec<&[u8]> = records.iter().map(|range| &bytes[range.clone()]).collect();
    assert_eq!(payloads[0], b"\x01LGMARKS\0\x01\0\0\0\x01\0\0\0");
    assert_eq!(payloads[1][0], 2);
    let key = data_key(&payloads[1][1..], b"lockgate marks v1");
    let batch = payloads[2];
    assert_eq!((batch[0], u64_at(batch, 1)), (3, 0));
    let facts = u32_at(batch, 9) as usize;
    assert_eq!(u64_at(batch, 13), 0x0001_0203_0405_0607);
    assert_eq!((u32_at(batch, 21), batch[25], batch[26]), (1, 1, 15));
    let plain = &batch[..13 + facts];
    let aad = [&1_u32.to_le_bytes(), plain].concat();
    assert_eq!(open(&key, 0, &aad, &batch[13 + facts..]), b"451 4.3.0 later");
}
