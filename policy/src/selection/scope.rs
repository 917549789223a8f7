//! The mail that probes can be: between addresses of the operator, by SMTP, and such that it can be
//! processed.
//!
//! What the server knows of a mailbox is the same for every probe that goes to it: what earlier
//! probes expect is kept, so that later ones go elsewhere before they expect the contrary.
//!
//! Not here: which of this mail is chosen (`cover`).

use biodivine_lib_bdd::Bdd;

use super::{Directions, Offer, SelectError};
use crate::predicate::{Language, Matcher, Predicate};
use crate::program::{Formula, Question, Questions};
use crate::sample::{Fact, Sample, Variable};
use crate::space::Space;

/// The questions that tell probes from other mail.
pub(super) struct Asked {
    mailboxes: Vec<Question>,
    senders: Vec<Question>,
    outbound: Question,
    failed: Question,
    smtp: Question,
}

impl Asked {
    /// Adds them to those of a program.
    pub(super) fn new(offer: &Offer<'_>, questions: &mut Questions) -> Result<Self, SelectError> {
        if offer.mailboxes.is_empty() {
            return Err(SelectError::NoMailbox);
        }
        if offer.senders.is_empty() {
            return Err(SelectError::NoSender);
        }
        let mut ask = |variable: Variable, text: &str| {
            let language = Language::none(false, true).with_exact(text);
            questions.number(Predicate::Text { variable, language })
        };
        Ok(Self {
            mailboxes: offer.mailboxes.iter().map(|one| ask(Variable::Recipient, one)).collect(),
            senders: offer.senders.iter().map(|one| ask(Variable::Sender, one)).collect(),
            outbound: ask(Variable::Direction, "outbound"),
            failed: ask(Variable::Processing, "failed"),
            smtp: ask(Variable::Service, "SMTP"),
        })
    }
}

/// The mail that probes can be.
pub(super) struct Scope<'a> {
    pub(super) space: &'a Space<'a>,
    addresses: [Vec<Owned>; 2],
    /// Every way in which other mail is no probe: to others, from others, the other way, not to be
    /// processed, not by SMTP.
    pub(super) bounds: [Bdd; 5],
}

/// An address of the operator.
struct Owned {
    /// As it was written.
    text: String,
    /// The mail to it or from it.
    mail: Bdd,
    /// That of it which agrees with what probes expect so far.
    agreeing: Bdd,
}

/// What the server knows of a recipient, and of a sender.
const KNOWN: [&[Variable]; 2] = [
    &[Variable::RecipientKey, Variable::RecipientGroup, Variable::RecipientKeyMode],
    &[Variable::SenderGroup, Variable::SenderKeyMode],
];

impl<'a> Scope<'a> {
    /// Finds it in a space with these questions.
    pub(super) fn new(
        offer: &Offer<'_>,
        asked: Asked,
        space: &'a Space<'a>,
    ) -> Result<Self, SelectError> {
        let region = |question| space.where_holds(&Formula::Ask(question)).and(space.valid());
        let owned = |texts: &[String], questions: Vec<Question>| {
            let address = |(text, question): (&String, Question)| {
                let mail = region(question);
                match mail.is_false() {
                    true => Err(SelectError::Address { text: text.clone() }),
                    false => Ok(Owned { text: text.clone(), agreeing: mail.clone(), mail }),
                }
            };
            texts.iter().zip(questions).map(address).collect::<Result<Vec<Owned>, _>>()
        };
        let mailboxes = owned(offer.mailboxes, asked.mailboxes)?;
        let senders = owned(offer.senders, asked.senders)?;
        let any =
            |owned: &[Owned]| owned.iter().fold(space.nothing(), |any, one| any.or(&one.mail));
        let direction = match offer.directions {
            Directions::Outbound => region(asked.outbound),
            Directions::Both => space.valid().clone(),
        };
        let processed = space.valid().and_not(&region(asked.failed));
        let bounds = [any(&mailboxes), any(&senders), direction, processed, region(asked.smtp)];
        Ok(Self { space, addresses: [mailboxes, senders], bounds })
    }

    /// The part of this mail that probes can be.
    pub(super) fn within(&self, mail: &Bdd) -> Bdd {
        self.bounds.iter().fold(mail.clone(), |left, bound| left.and(bound))
    }

    /// The part of this mail that probes can be but for one bound.
    pub(super) fn but_for(&self, mail: &Bdd, bound: usize) -> Bdd {
        let others = self.bounds.iter().enumerate().filter(|(other, _)| *other != bound);
        others.fold(mail.clone(), |left, (_, bound)| left.and(bound))
    }

    /// The part of this mail that agrees with what probes expect so far; all of it where none does.
    pub(super) fn agreeing(&self, mail: Bdd) -> Bdd {
        let agrees = |mail: Bdd, owned: &Vec<Owned>| {
            let all = owned.iter().fold(self.space.nothing(), |any, one| any.or(&one.agreeing));
            let agreeing = mail.and(&all);
            if agreeing.is_false() { mail } else { agreeing }
        };
        self.addresses.iter().fold(mail, agrees)
    }

    /// The message with the addresses as they were written.
    pub(super) fn written(&self, mut sample: Sample) -> Sample {
        for (variable, owned) in [Variable::Recipient, Variable::Sender].iter().zip(&self.addresses)
        {
            if let Some(one) = owned.iter().find(|one| one.is_of(&sample, variable)) {
                sample.set(variable.clone(), Fact::Text(one.text.clone()));
            }
        }
        sample
    }

    /// Keeps what a probe expects of its recipient and its sender.
    pub(super) fn keep(&mut self, sample: &Sample, expects: &[(Variable, Fact)]) {
        let sides = [Variable::Recipient, Variable::Sender].into_iter().zip(KNOWN);
        for ((variable, known), owned) in sides.zip(&mut self.addresses) {
            let Some(one) = owned.iter_mut().find(|one| one.is_of(sample, &variable)) else {
                continue;
            };
            for (expected, _) in expects.iter().filter(|(variable, _)| known.contains(variable)) {
                one.agreeing = answered(self.space, sample, expected, one.agreeing.clone());
            }
        }
    }
}

/// The part of this mail that gives the same answers about a fact as the message does.
fn answered(space: &Space<'_>, sample: &Sample, fact: &Variable, mail: Bdd) -> Bdd {
    let questions = (0..).map(Question).zip(space.questions().all());
    questions.fold(mail, |mail, (question, predicate)| {
        let about = match predicate {
            Predicate::Text { variable, .. } | Predicate::Number { variable, .. } => variable,
            Predicate::Opaque(_) => return mail,
        };
        if about != fact {
            return mail;
        }
        let holds = space.where_holds(&Formula::Ask(question));
        match Matcher::new(predicate).holds(sample) {
            Some(true) => mail.and(&holds),
            Some(false) => mail.and_not(&holds),
            None => mail,
        }
    })
}

impl Owned {
    /// Is this the address in the message?
    fn is_of(&self, sample: &Sample, variable: &Variable) -> bool {
        match sample.fact(variable) {
            Some(Fact::Text(text)) => text.eq_ignore_ascii_case(&self.text),
            _ => false,
        }
    }
}
