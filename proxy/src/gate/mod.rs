//! Gates: pass, hold or refuse, and when older permits are gone.
//!
//! Whoever wants to speak to a member, or to take mail, enters the gate and gets a [`Permit`]; the
//! permit fixes the mode for the whole transaction. An order raises the [`Epoch`]: what entered
//! before goes on as it began, and [`Gate::quiet`] says when the last of it has ended.
//!
//! Invariants
//! - Nobody can ask for the mode without being counted.
//! - The mode of a transaction never changes midway.
//! - An order is on disk before it is answered; a hold whose write fails is in force all the same.
//! - The brake file is looked at for every transaction, before the mode is decided.
//! - A permit that may have sent its final dot is never aborted (its reply is awaited).
//!
//! Not here: the file of orders (`state`), what an order means (`order`), connections (`relay`).

pub mod order;
pub mod state;

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use tokio::sync::{Notify, watch};

pub use order::{Effect, Holder, HolderKind, Mode, Order};
pub use state::OrderBook;

use crate::clock;
use crate::id::TransactionId;

/// Name of the brake file in the state directory.
pub const BRAKE_FILE: &str = "hold";

/// Rises with every change of a gate's orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// Which member of a gate: its place in the configuration.
pub type MemberIndex = usize;

/// What a gate is, from the configuration.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its name.
    pub name: Arc<str>,
    /// The partner, for a return gate.
    pub returns: Option<Arc<str>>,
    /// Names of its members.
    pub members: Vec<String>,
}

/// Why an order could not be placed or ended.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// No such gate.
    #[error("no gate is named {0:?}; `lockgate gates` lists them")]
    NoSuchGate(String),
    /// No such member.
    #[error("gate {gate} has no member {member:?}")]
    NoSuchMember {
        /// The gate.
        gate: String,
        /// The name asked for.
        member: String,
    },
    /// No such order.
    #[error("no open order has the number {0}; `lockgate orders list` shows them")]
    NoSuchOrder(u64),
    /// An order needs a reason.
    #[error("a reason is needed: it is what the next person reads")]
    NoReason,
    /// A return gate cannot refuse: mail would be kept inside the server.
    #[error("gate {0} is a return gate: it cannot refuse, or mail would stay inside the server")]
    ReturnGate(String),
    /// The brake file is still there: it would be back at once.
    #[error("the brake is on: remove {} first", .0.display())]
    BrakeFile(PathBuf),
    /// Held by somebody else.
    #[error(
        "order {id} is held by {kind:?} {name}: only its holder ends it, or `--force` with a reason"
    )]
    NotYours {
        /// The order.
        id: u64,
        /// Kind of its holder.
        kind: HolderKind,
        /// Name of its holder.
        name: String,
    },
    /// The file of orders could not be written.
    #[error("the file of orders could not be written; a hold stays in force until the next start")]
    Disk(#[source] io::Error),
}

/// What somebody inside a gate is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errand {
    /// A client's transaction.
    Transaction,
    /// An attempt of the replayer.
    Replay,
    /// An attempt asked for one by one while the gate holds.
    Canary,
    /// A probe or a check of a member's health.
    Probe,
}

/// Why a replay, canary or probe may not go out now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The orders that forbid it.
    pub orders: Vec<Order>,
}

/// All gates of a process, with their orders.
pub struct Gates {
    cells: Vec<Cell>,
    book: Mutex<OrderBook>,
    brake: PathBuf,
}

struct Cell {
    plan: Plan,
    inner: Mutex<Inner>,
    /// Tells the epoch to whoever waits for a change of orders.
    changed: watch::Sender<Epoch>,
    /// Told whenever a permit ends.
    ended: Notify,
}

struct Inner {
    orders: Vec<Order>,
    epoch: Epoch,
    mode: Mode,
    next_member: MemberIndex,
    next_permit: u64,
    permits: HashMap<u64, Arc<Alive>>,
}

/// One living permit, as others see it.
#[derive(Debug)]
pub struct Alive {
    /// The transaction.
    pub id: TransactionId,
    /// What it does.
    pub errand: Errand,
    /// The mode it entered with.
    pub mode: Mode,
    /// The epoch it entered in.
    pub epoch: Epoch,
    /// Since when.
    pub since: Instant,
    member: Mutex<Option<MemberIndex>>,
    stage: AtomicU8,
    /// Whoever carries the permit out, and waits while it does.
    carrier: AtomicWaker,
}

const BEFORE_DOT: u8 = 0;
const AFTER_DOT: u8 = 1;
const ABORTED: u8 = 2;

impl Alive {
    /// Was the final dot sent, or may it have been?
    #[must_use]
    pub fn after_final_dot(&self) -> bool {
        self.stage.load(Ordering::Acquire) == AFTER_DOT
    }

    /// The member it speaks to, if any.
    #[must_use]
    pub fn member(&self) -> Option<MemberIndex> {
        *lock(&self.member)
    }

    /// Can it reach a member? A transaction that is being held cannot.
    #[must_use]
    pub const fn reaches_member(&self) -> bool {
        matches!(self.mode, Mode::Pass) || !matches!(self.errand, Errand::Transaction)
    }

    fn abort(&self) -> bool {
        let aborted = self
            .stage
            .compare_exchange(BEFORE_DOT, ABORTED, Ordering::AcqRel, Ordering::Acquire)
            .is_ok();
        if aborted {
            self.carrier.wake();
        }
        aborted
    }
}

/// One gate; cheap to clone.
#[derive(Clone)]
pub struct Gate {
    gates: Arc<Gates>,
    index: usize,
}

/// The right to finish one transaction in the mode with which it began.
pub struct Permit {
    gate: Gate,
    key: u64,
    alive: Arc<Alive>,
}

/// Tells when a permit was aborted; lives apart from it, so that work with the permit can be given up
/// midway.
#[derive(Clone, Debug)]
pub struct Fence(Arc<Alive>);

impl Fence {
    /// Resolves when the fence came down before the final dot; never after it. One task waits for
    /// it: the one that carries the permit out.
    pub async fn down(&self) -> Fenced {
        poll_fn(|context| {
            if !self.is_down() {
                self.0.carrier.register(context.waker());
                // It may have come down just before it knew whom to wake.
                if !self.is_down() {
                    return Poll::Pending;
                }
            }
            Poll::Ready(Fenced)
        })
        .await
    }

    fn is_down(&self) -> bool {
        self.0.stage.load(Ordering::Acquire) == ABORTED
    }
}

/// A fence came down before the final dot was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("aborted before the final dot by an order on the gate")]
pub struct Fenced;

impl Gates {
    /// Gates with the orders that `book` holds.
    #[must_use]
    pub fn new(plans: Vec<Plan>, book: OrderBook, brake: PathBuf) -> Arc<Self> {
        let cells = plans
            .into_iter()
            .map(|plan| {
                let orders = orders_of(book.orders(), &plan.name);
                let mode = order::mode(&orders, plan.members.iter().map(String::as_str));
                let inner = Inner {
                    orders,
                    epoch: Epoch(1),
                    mode,
                    next_member: 0,
                    next_permit: 0,
                    permits: HashMap::new(),
                };
                Cell {
                    plan,
                    inner: Mutex::new(inner),
                    changed: watch::Sender::new(Epoch(1)),
                    ended: Notify::new(),
                }
            })
            .collect();
        Arc::new(Self { cells, book: Mutex::new(book), brake })
    }

    /// Every gate, in the order of the configuration.
    pub fn all(self: &Arc<Self>) -> impl Iterator<Item = Gate> + use<'_> {
        (0..self.cells.len()).map(|index| Gate { gates: Arc::clone(self), index })
    }

    /// The gate of this name.
    ///
    /// # Errors
    /// [`OrderError::NoSuchGate`].
    pub fn named(self: &Arc<Self>, name: &str) -> Result<Gate, OrderError> {
        self.all()
            .find(|gate| gate.name() == name)
            .ok_or_else(|| OrderError::NoSuchGate(name.to_owned()))
    }

    /// Every open order.
    #[must_use]
    pub fn orders(&self) -> Vec<Order> {
        lock(&self.book).orders().to_vec()
    }

    /// Places one order per gate, in one durable write. Blocking: it syncs.
    ///
    /// # Errors
    /// See [`OrderError`]; after [`OrderError::Disk`] a hold, refusal or cordon is in force all the
    /// same, since the safe side is the one where mail stays.
    pub fn place(
        &self,
        gates: &[Gate],
        effect: &Effect,
        holder: &Holder,
        reason: &str,
    ) -> Result<Vec<(Order, Epoch)>, OrderError> {
        if reason.trim().is_empty() {
            return Err(OrderError::NoReason);
        }
        for gate in gates {
            let plan = gate.plan();
            if *effect == Effect::Refuse && plan.returns.is_some() {
                return Err(OrderError::ReturnGate(plan.name.to_string()));
            }
            if let Effect::Cordon { member } = effect
                && !plan.members.contains(member)
            {
                return Err(OrderError::NoSuchMember {
                    gate: plan.name.to_string(),
                    member: member.clone(),
                });
            }
        }
        let since_unix_ms = clock::unix_ms();
        let names: Vec<Arc<str>> = gates.iter().map(|gate| Arc::clone(&gate.plan().name)).collect();
        let edit = |orders: &mut Vec<Order>, next_id: &mut u64| {
            let mut placed = Vec::new();
            for name in &names {
                let same = orders.iter_mut().find(|order| {
                    *order.gate == **name && order.effect == *effect && order.holder == *holder
                });
                // The same party asking again renews its reason; it does not hold twice.
                if let Some(order) = same {
                    reason.clone_into(&mut order.reason);
                    placed.push(order.clone());
                    continue;
                }
                let order = Order {
                    id: state::take(next_id),
                    gate: name.to_string(),
                    effect: effect.clone(),
                    holder: holder.clone(),
                    reason: reason.to_owned(),
                    since_unix_ms,
                };
                orders.push(order.clone());
                placed.push(order);
            }
            placed
        };
        let mut book = lock(&self.book);
        let placed = match book.change(edit) {
            Ok(placed) => placed,
            Err(error) => {
                book.change_in_memory(|orders, next_id| {
                    edit(orders, next_id);
                });
                self.apply(&book);
                return Err(OrderError::Disk(error));
            }
        };
        self.apply(&book);
        Ok(placed.into_iter().zip(gates).map(|(order, gate)| (order, gate.epoch())).collect())
    }

    /// Ends one order, durably. Blocking: it syncs.
    ///
    /// # Errors
    /// See [`OrderError`]; nothing changes then.
    pub fn end(&self, id: u64, by: &Holder, force: bool) -> Result<Order, OrderError> {
        let mut book = lock(&self.book);
        let order = book
            .orders()
            .iter()
            .find(|order| order.id == id)
            .cloned()
            .ok_or(OrderError::NoSuchOrder(id))?;
        if order.holder.kind == HolderKind::Brake && self.brake.try_exists().unwrap_or(true) {
            return Err(OrderError::BrakeFile(self.brake.clone()));
        }
        if !force && order.holder != *by {
            return Err(OrderError::NotYours {
                id,
                kind: order.holder.kind,
                name: order.holder.name,
            });
        }
        book.change(|orders, _| orders.retain(|order| order.id != id)).map_err(OrderError::Disk)?;
        self.apply(&book);
        Ok(order)
    }

    /// Ends the orders of `gate` that `ends` picks and, in the same write, places a hold of the
    /// backlog when `backlog` says so. Blocking: it syncs.
    ///
    /// # Errors
    /// [`OrderError::Disk`]; nothing changes then.
    pub fn release(
        &self,
        gate: &Gate,
        ends: impl Fn(&Order) -> bool,
        backlog: Option<&str>,
    ) -> Result<Vec<Order>, OrderError> {
        let name = &gate.plan().name;
        let since_unix_ms = clock::unix_ms();
        let mut book = lock(&self.book);
        let ended = book
            .change(|orders, next_id| {
                let ended: Vec<Order> =
                    orders.extract_if(.., |order| *order.gate == **name && ends(order)).collect();
                let stands = orders
                    .iter()
                    .any(|order| *order.gate == **name && order.holder.kind == HolderKind::Backlog);
                if let Some(reason) = backlog
                    && !stands
                {
                    orders.push(Order {
                        id: state::take(next_id),
                        gate: name.to_string(),
                        effect: Effect::Hold,
                        holder: Holder::new(HolderKind::Backlog, "replay"),
                        reason: reason.to_owned(),
                        since_unix_ms,
                    });
                }
                ended
            })
            .map_err(OrderError::Disk)?;
        self.apply(&book);
        Ok(ended)
    }

    fn apply(&self, book: &OrderBook) {
        for cell in &self.cells {
            let orders = orders_of(book.orders(), &cell.plan.name);
            let mut inner = lock(&cell.inner);
            if inner.orders == orders {
                continue;
            }
            inner.mode = order::mode(&orders, cell.plan.members.iter().map(String::as_str));
            inner.orders = orders;
            inner.epoch = Epoch(inner.epoch.0 + 1);
            cell.changed.send_replace(inner.epoch);
        }
    }
}

impl Gate {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.plan().name
    }

    /// What the configuration says of it.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.cell().plan
    }

    /// Its orders.
    #[must_use]
    pub fn orders(&self) -> Vec<Order> {
        lock(&self.cell().inner).orders.clone()
    }

    /// Does any of its orders satisfy this?
    #[must_use]
    pub fn any_order(&self, is: impl Fn(&Order) -> bool) -> bool {
        lock(&self.cell().inner).orders.iter().any(is)
    }

    /// The epoch now.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        lock(&self.cell().inner).epoch
    }

    /// The mode that the next transaction would get; for showing, never for deciding.
    #[must_use]
    pub fn mode_shown(&self) -> Mode {
        lock(&self.cell().inner).mode
    }

    /// Wakes with every change of orders.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Epoch> {
        self.cell().changed.subscribe()
    }

    /// Everybody inside, oldest first.
    #[must_use]
    pub fn alive(&self) -> Vec<Arc<Alive>> {
        let mut alive: Vec<_> = lock(&self.cell().inner).permits.values().cloned().collect();
        alive.sort_by_key(|permit| permit.since);
        alive
    }

    /// Looks at the brake file; when it is there, or nobody can tell, holds this gate. Blocking, but only when the file
    /// is found for the first time.
    pub fn heed_brake(&self) {
        let cell = self.cell();
        if cell.plan.returns.is_some() || !self.gates.brake.try_exists().unwrap_or(true) {
            return;
        }
        let braked =
            lock(&cell.inner).orders.iter().any(|order| order.holder.kind == HolderKind::Brake);
        if braked {
            return;
        }
        let holder = Holder::new(HolderKind::Brake, BRAKE_FILE);
        let reason = "the brake file is in the state directory";
        if let Err(error) =
            self.gates.place(std::slice::from_ref(self), &Effect::Hold, &holder, reason)
        {
            tracing::error!(gate = self.name(), %error, "brake: the hold is in force but not on disk");
        } else {
            tracing::warn!(gate = self.name(), "brake: the gate holds");
        }
    }

    /// Enters for a client's transaction: the mode is fixed from here to its end. In pass, a member
    /// free of cordons is picked, one that `usable` prefers if there is any.
    #[must_use]
    pub fn enter(&self, id: TransactionId, usable: impl Fn(MemberIndex) -> bool) -> Permit {
        self.heed_brake();
        let cell = self.cell();
        let mut inner = lock(&cell.inner);
        let mode = inner.mode;
        let member = (mode == Mode::Pass).then(|| inner.pick(&cell.plan, usable)).flatten();
        self.admit(&mut inner, id, Errand::Transaction, mode, member)
    }

    /// Enters to give a member something that is not a client's transaction.
    ///
    /// # Errors
    /// [`Closed`] with the orders that forbid it. A probe may go to a held gate, and to a cordoned
    /// member: it is how one finds out whether the cordon can end.
    pub fn enter_for(
        &self,
        id: TransactionId,
        errand: Errand,
        member: Option<MemberIndex>,
        usable: impl Fn(MemberIndex) -> bool,
    ) -> Result<Permit, Closed> {
        self.heed_brake();
        let cell = self.cell();
        let mut inner = lock(&cell.inner);
        let forbidding: Vec<Order> = inner
            .orders
            .iter()
            .filter(|order| match errand {
                Errand::Transaction | Errand::Replay => order.stops_replay(),
                Errand::Canary => order.stops_canary(),
                Errand::Probe => false,
            })
            .cloned()
            .collect();
        if !forbidding.is_empty() {
            return Err(Closed { orders: forbidding });
        }
        let member = match member {
            Some(member) => Some(member),
            None => inner.pick(&cell.plan, usable),
        };
        let Some(member) = member else {
            return Err(Closed { orders: inner.orders.clone() });
        };
        Ok(self.admit(&mut inner, id, errand, Mode::Pass, Some(member)))
    }

    /// Who is still inside that entered before `epoch` and can reach a member.
    #[must_use]
    pub fn older(&self, epoch: Epoch) -> Vec<Arc<Alive>> {
        let mut older = self.alive();
        older.retain(|alive| alive.epoch < epoch && alive.reaches_member());
        older
    }

    /// Waits until nobody older than `epoch` who can reach a member is inside; at the deadline says
    /// who is.
    ///
    /// # Errors
    /// Those still alive at the deadline.
    pub async fn quiet(&self, epoch: Epoch, wait: Duration) -> Result<(), Vec<Arc<Alive>>> {
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            let ended = self.cell().ended.notified();
            let older = self.older(epoch);
            if older.is_empty() {
                return Ok(());
            }
            if tokio::time::timeout_at(deadline, ended).await.is_err() {
                let older = self.older(epoch);
                return if older.is_empty() { Ok(()) } else { Err(older) };
            }
        }
    }

    /// The fence: aborts what entered before `epoch`, speaks to `member` (to any, for none) and has
    /// not sent its final dot. Says how many.
    #[must_use]
    pub fn abort_older(&self, epoch: Epoch, member: Option<MemberIndex>) -> usize {
        self.older(epoch)
            .iter()
            .filter(|alive| member.is_none() || alive.member() == member)
            .filter(|alive| alive.abort())
            .count()
    }

    fn cell(&self) -> &Cell {
        &self.gates.cells[self.index]
    }

    fn admit(
        &self,
        inner: &mut Inner,
        id: TransactionId,
        errand: Errand,
        mode: Mode,
        member: Option<MemberIndex>,
    ) -> Permit {
        let alive = Arc::new(Alive {
            id,
            errand,
            mode,
            epoch: inner.epoch,
            since: Instant::now(),
            member: Mutex::new(member),
            stage: AtomicU8::new(BEFORE_DOT),
            carrier: AtomicWaker::new(),
        });
        let key = inner.next_permit;
        inner.next_permit += 1;
        inner.permits.insert(key, Arc::clone(&alive));
        Permit { gate: self.clone(), key, alive }
    }
}

impl Inner {
    /// The next member in turn that is free of cordons; one that `usable` prefers, if any.
    fn pick(&mut self, plan: &Plan, usable: impl Fn(MemberIndex) -> bool) -> Option<MemberIndex> {
        let count = plan.members.len();
        let free = |member: &MemberIndex| !order::is_cordoned(&self.orders, &plan.members[*member]);
        let turn = || (0..count).map(|step| (self.next_member + step) % count).filter(free);
        let member = turn().find(|member| usable(*member)).or_else(|| turn().next())?;
        self.next_member = (member + 1) % count;
        Some(member)
    }
}

impl Permit {
    /// The mode for the whole of this transaction.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.alive.mode
    }

    /// The gate that was entered.
    #[must_use]
    pub const fn gate(&self) -> &Gate {
        &self.gate
    }

    /// The transaction.
    #[must_use]
    pub fn id(&self) -> TransactionId {
        self.alive.id
    }

    /// The member to speak to; none in hold and refuse.
    #[must_use]
    pub fn member(&self) -> Option<MemberIndex> {
        self.alive.member()
    }

    /// Another member than those in `tried`, when one is free of cordons; the permit then speaks
    /// to that one.
    #[must_use]
    pub fn retarget(&self, tried: &[MemberIndex]) -> Option<MemberIndex> {
        let cell = self.gate.cell();
        let inner = lock(&cell.inner);
        let member = (0..cell.plan.members.len()).find(|member| {
            !tried.contains(member)
                && !order::is_cordoned(&inner.orders, &cell.plan.members[*member])
        })?;
        *lock(&self.alive.member) = Some(member);
        Some(member)
    }

    /// To be called just before the final dot is sent; from then on the permit is awaited, never
    /// aborted.
    ///
    /// # Errors
    /// [`Fenced`] when the fence came first: the final dot must not be sent.
    pub fn pass_final_dot(&self) -> Result<(), Fenced> {
        self.alive
            .stage
            .compare_exchange(BEFORE_DOT, AFTER_DOT, Ordering::AcqRel, Ordering::Acquire)
            .map(|_| ())
            .map_err(|_| Fenced)
    }

    /// Has the fence aborted this permit?
    #[must_use]
    pub fn is_aborted(&self) -> bool {
        self.alive.stage.load(Ordering::Acquire) == ABORTED
    }

    /// What tells that the fence has aborted this permit.
    #[must_use]
    pub fn fence(&self) -> Fence {
        Fence(Arc::clone(&self.alive))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let cell = self.gate.cell();
        lock(&cell.inner).permits.remove(&self.key);
        cell.ended.notify_waiters();
    }
}

fn orders_of(orders: &[Order], gate: &str) -> Vec<Order> {
    orders.iter().filter(|order| order.gate == gate).cloned().collect()
}

/// A poisoned lock means that a panic ended a session while it held it; the state inside is changed
/// in single assignments, so it is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use disk::FaultyDisk;

    const OPERATOR: &str = "anna";

    fn gates_on(disk: &FaultyDisk, now: u64) -> Arc<Gates> {
        let plan = |name: &str, returns: Option<&str>, members: &[&str]| Plan {
            name: name.into(),
            returns: returns.map(Into::into),
            members: members.iter().map(|member| (*member).to_owned()).collect(),
        };
        let plans =
            vec![plan("outbound", None, &["a", "b"]), plan("back", Some("outbound"), &["mta"])];
        let book = OrderBook::load(Arc::new(disk.clone()), &["outbound"], now).unwrap();
        Gates::new(plans, book, PathBuf::from("/nonexistent/hold"))
    }

    fn fresh() -> (FaultyDisk, Arc<Gates>) {
        let disk = FaultyDisk::default();
        OrderBook::create(&disk).unwrap();
        let gates = gates_on(&disk, 1);
        (disk, gates)
    }

    fn operator() -> Holder {
        Holder::new(HolderKind::Operator, OPERATOR)
    }

    fn hold(gates: &Arc<Gates>) -> Epoch {
        let gate = gates.named("outbound").unwrap();
        gates.place(&[gate], &Effect::Hold, &operator(), "upgrade").unwrap()[0].1
    }

    fn id(number: u64) -> TransactionId {
        TransactionId::from_u64(number)
    }

    #[test]
    fn an_order_takes_effect_at_the_next_transaction_and_not_in_one_that_runs() {
        let (_disk, gates) = fresh();
        let gate = gates.named("outbound").unwrap();
        let before = gate.enter(id(1), |_| true);
        let epoch = hold(&gates);
        let after = gate.enter(id(2), |_| true);
        assert_eq!(before.mode(), Mode::Pass);
        assert_eq!(after.mode(), Mode::Hold);
        assert_eq!(gate.older(epoch).len(), 1);
        drop(before);
        assert!(gate.older(epoch).is_empty());
    }

    #[test]
    fn a_hold_survives_a_restart() {
        let (disk, gates) = fresh();
        hold(&gates);
        let again = gates_on(&disk, 2);
        assert_eq!(again.named("outbound").unwrap().mode_shown(), Mode::Hold);
        assert_eq!(again.orders()[0].reason, "upgrade");
    }

    #[test]
    fn a_missing_file_of_orders_means_hold_for_forward_gates_only() {
        let gates = gates_on(&FaultyDisk::default(), 7);
        assert_eq!(gates.named("outbound").unwrap().mode_shown(), Mode::Hold);
        assert_eq!(gates.named("back").unwrap().mode_shown(), Mode::Pass);
        assert_eq!(gates.orders()[0].holder.kind, HolderKind::System);
    }

    #[test]
    fn a_damaged_file_of_orders_means_hold() {
        let (disk, _gates) = fresh();
        disk.flip(std::path::Path::new(state::FILE), 20, 0xff);
        assert_eq!(gates_on(&disk, 9).named("outbound").unwrap().mode_shown(), Mode::Hold);
    }

    #[test]
    fn a_hold_that_cannot_be_written_is_in_force_all_the_same() {
        let (disk, gates) = fresh();
        disk.set_budget(Some(0));
        let gate = gates.named("outbound").unwrap();
        let placed = gates.place(std::slice::from_ref(&gate), &Effect::Hold, &operator(), "now");
        assert!(matches!(placed, Err(OrderError::Disk(_))), "{placed:?}");
        assert_eq!(gate.enter(id(1), |_| true).mode(), Mode::Hold);
    }

    #[test]
    fn an_order_that_was_answered_survives_a_crash_at_any_disk_operation() {
        let (healthy, gates) = fresh();
        let before = healthy.operations();
        hold(&gates);
        let after = healthy.operations();
        assert!(after > before);
        for crash_at in before..after {
            let (disk, gates) = fresh();
            disk.crash_at(crash_at);
            let gate = gates.named("outbound").unwrap();
            let answered = gates.place(&[gate], &Effect::Hold, &operator(), "upgrade").is_ok();
            let found = gates_on(&disk.after_crash(disk::Crash::Lost), 3);
            let holds = found.named("outbound").unwrap().mode_shown() == Mode::Hold;
            assert!(holds || !answered, "crash at operation {crash_at}");
        }
    }

    #[test]
    fn release_replaces_the_operators_hold_by_the_backlogs_in_one_write() {
        let (disk, gates) = fresh();
        hold(&gates);
        let gate = gates.named("outbound").unwrap();
        let ended = gates.release(&gate, |order| order.holder == operator(), Some("tail")).unwrap();
        assert_eq!(ended.len(), 1);
        assert_eq!(gate.mode_shown(), Mode::Hold, "new mail joins the tail");
        assert!(gate.enter_for(id(1), Errand::Replay, None, |_| true).is_ok());
        assert_eq!(gates_on(&disk, 2).orders()[0].holder.kind, HolderKind::Backlog);
    }

    #[test]
    fn nobody_ends_the_order_of_another_without_force() {
        let (_disk, gates) = fresh();
        hold(&gates);
        let order = gates.orders()[0].id;
        let stranger = Holder::new(HolderKind::Operator, "bert");
        assert!(matches!(gates.end(order, &stranger, false), Err(OrderError::NotYours { .. })));
        assert!(gates.end(order, &stranger, true).is_ok());
        assert_eq!(gates.named("outbound").unwrap().mode_shown(), Mode::Pass);
    }

    #[test]
    fn hold_stops_replay_but_not_a_canary_or_a_probe() {
        let (_disk, gates) = fresh();
        hold(&gates);
        let gate = gates.named("outbound").unwrap();
        assert!(gate.enter_for(id(1), Errand::Replay, None, |_| true).is_err());
        assert!(gate.enter_for(id(2), Errand::Canary, None, |_| true).is_ok());
        assert!(gate.enter_for(id(3), Errand::Probe, Some(0), |_| true).is_ok());
    }

    #[test]
    fn a_cordoned_member_gets_nothing_and_the_gate_holds_when_all_are() {
        let (_disk, gates) = fresh();
        let gate = gates.named("outbound").unwrap();
        let cordon = |member: &str| {
            let effect = Effect::Cordon { member: member.to_owned() };
            gates.place(std::slice::from_ref(&gate), &effect, &operator(), "look").unwrap();
        };
        cordon("a");
        for number in 0..4 {
            assert_eq!(gate.enter(id(number), |_| true).member(), Some(1));
        }
        cordon("b");
        assert_eq!(gate.enter(id(9), |_| true).mode(), Mode::Hold);
        assert!(gate.enter_for(id(10), Errand::Replay, None, |_| true).is_err());
    }

    #[test]
    fn a_return_gate_cannot_refuse_and_ignores_the_brake() {
        let (_disk, gates) = fresh();
        let back = gates.named("back").unwrap();
        let refused = gates.place(std::slice::from_ref(&back), &Effect::Refuse, &operator(), "no");
        assert!(matches!(refused, Err(OrderError::ReturnGate(_))));
        assert_eq!(back.enter(id(1), |_| true).mode(), Mode::Pass);
    }

    #[test]
    fn the_brake_file_holds_and_removing_it_opens_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let brake = folder.path().join(BRAKE_FILE);
        let disk = FaultyDisk::default();
        OrderBook::create(&disk).unwrap();
        let book = OrderBook::load(Arc::new(disk), &["outbound"], 1).unwrap();
        let plan = Plan { name: "outbound".into(), returns: None, members: vec!["a".into()] };
        let gates = Gates::new(vec![plan], book, brake.clone());
        let gate = gates.named("outbound").unwrap();
        assert_eq!(gate.enter(id(1), |_| true).mode(), Mode::Pass);
        std::fs::write(&brake, b"").unwrap();
        assert_eq!(gate.enter(id(2), |_| true).mode(), Mode::Hold);
        #[allow(clippy::disallowed_methods)]
        std::fs::remove_file(&brake).unwrap();
        assert_eq!(gate.enter(id(3), |_| true).mode(), Mode::Hold);
        assert_eq!(gates.orders()[0].holder.kind, HolderKind::Brake);
    }

    #[tokio::test(start_paused = true)]
    async fn quiet_waits_for_what_can_reach_a_member_and_names_it_at_the_deadline() {
        let (_disk, gates) = fresh();
        let gate = gates.named("outbound").unwrap();
        let permit = gate.enter(id(5), |_| true);
        let epoch = hold(&gates);
        let alive = gate.quiet(epoch, Duration::from_secs(3)).await.unwrap_err();
        assert_eq!(alive[0].id, id(5));
        drop(permit);
        assert!(gate.quiet(epoch, Duration::from_secs(3)).await.is_ok());
    }

    #[tokio::test]
    async fn the_fence_aborts_before_the_final_dot_and_never_after() {
        let (_disk, gates) = fresh();
        let gate = gates.named("outbound").unwrap();
        let early = gate.enter(id(1), |_| true);
        let late = gate.enter(id(2), |_| true);
        late.pass_final_dot().unwrap();
        let epoch = hold(&gates);
        assert_eq!(gate.abort_older(epoch, None), 1);
        assert_eq!(early.fence().down().await, Fenced);
        assert!(early.pass_final_dot().is_err());
        assert!(gate.older(epoch).iter().any(|alive| alive.id == id(2) && alive.after_final_dot()));
    }
}
