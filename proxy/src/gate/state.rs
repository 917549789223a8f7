//! The orders on disk.
//!
//! Invariants
//! - A change is on disk, synced, before it is answered or in force for anybody who asked for it.
//! - What cannot be read means hold: in a state directory that was initialised, a missing or
//!   damaged file gives every forward gate a hold order of the system, and that is written down.
//! - One write replaces the whole file, so a change of several orders happens at once or not.
//!
//! Not here: what an order means (`order`), who is inside a gate (`mod`).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use disk::Disk;
use disk::snapshot::{self, Loaded};
use serde::{Deserialize, Serialize};

use super::order::{Effect, Holder, HolderKind, Order};

/// Name of the file in the state directory.
pub const FILE: &str = "orders";

/// What the file begins with.
const MAGIC: &[u8; 8] = b"LGORDERS";

/// Version of the layout inside the snapshot.
const VERSION: u32 = 1;

/// The file of orders and what it holds.
pub struct OrderBook {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    contents: Contents,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    next_id: u64,
    orders: Vec<Order>,
}

impl Contents {
    const fn empty() -> Self {
        Self { next_id: 1, orders: Vec::new() }
    }
}

impl OrderBook {
    /// Writes an empty file; only the making of a new state directory calls this.
    ///
    /// # Errors
    /// When the file cannot be written or synced.
    pub fn create(disk: &dyn Disk) -> io::Result<()> {
        write(disk, Path::new(FILE), &Contents::empty())
    }

    /// Reads the file; `forward_gates` get a hold order each when it is missing or unreadable.
    ///
    /// # Errors
    /// When those hold orders cannot be written.
    pub fn load(disk: Arc<dyn Disk>, forward_gates: &[&str], now_unix_ms: u64) -> io::Result<Self> {
        let path = PathBuf::from(FILE);
        let doubt = match snapshot::load(&*disk, &path, MAGIC)? {
            Loaded::Stored { version: VERSION, payload } => {
                match serde_json::from_slice::<Contents>(&payload) {
                    Ok(contents) => return Ok(Self { disk, path, contents }),
                    Err(error) => format!("the file of orders cannot be read: {error}"),
                }
            }
            Loaded::Stored { version, .. } => format!("the file of orders has version {version}"),
            Loaded::Missing => "the file of orders is missing".to_owned(),
            Loaded::Damaged(what) => format!("the file of orders is damaged: {what}"),
        };
        let mut book = Self { disk, path, contents: Contents::empty() };
        // Numbers of lost orders must not be used again: start where no order can have been.
        book.contents.next_id = now_unix_ms.max(1);
        book.change(|orders, next_id| {
            for gate in forward_gates {
                orders.push(Order {
                    id: take(next_id),
                    gate: (*gate).to_owned(),
                    effect: Effect::Hold,
                    holder: Holder::new(HolderKind::System, "lockgate"),
                    reason: doubt.clone(),
                    since_unix_ms: now_unix_ms,
                });
            }
        })?;
        Ok(book)
    }

    /// Every open order.
    #[must_use]
    pub fn orders(&self) -> &[Order] {
        &self.contents.orders
    }

    /// Changes the orders in one durable write; nothing changes when the write fails.
    ///
    /// # Errors
    /// When the file cannot be written or synced.
    pub fn change<R>(
        &mut self,
        edit: impl FnOnce(&mut Vec<Order>, &mut u64) -> R,
    ) -> io::Result<R> {
        let mut next = self.contents.clone();
        let result = edit(&mut next.orders, &mut next.next_id);
        write(&*self.disk, &self.path, &next)?;
        self.contents = next;
        Ok(result)
    }

    /// Changes the orders in memory only: used when the disk refuses a *hold*, which must be in
    /// force all the same.
    pub fn change_in_memory(&mut self, edit: impl FnOnce(&mut Vec<Order>, &mut u64)) {
        edit(&mut self.contents.orders, &mut self.contents.next_id);
    }
}

/// The next number of an order.
pub const fn take(next_id: &mut u64) -> u64 {
    let id = *next_id;
    *next_id += 1;
    id
}

fn write(disk: &dyn Disk, path: &Path, contents: &Contents) -> io::Result<()> {
    let bytes = serde_json::to_vec(contents).map_err(io::Error::other)?;
    snapshot::store(disk, path, MAGIC, VERSION, &bytes)
}
