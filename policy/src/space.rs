//! All messages at once: every combination of answers that a message can give, as a decision diagram.
//!
//! Each variable has a block of binary variables. What has one value (an address, a word, a number)
//! is the number of its class, so that answers which exclude one another cannot meet; what has many
//! values (fields, groups) has a flag for each question. Classes are numbered from the smallest
//! text on, so that the first point of a set is its smallest message.
//!
//! Where the classes of a text are too many, its questions fall into several groups, each with
//! classes of its own; whether a combination across groups is possible is then found when a message
//! is drawn.
//!
//! Invariant: a message that is drawn gives the answers of its point (facts of different variables
//! are independent of one another, but for the ties in [`Space::new`]).
//!
//! Not here: which messages a policy treats how (`diagram`).

use std::collections::{BTreeMap, BTreeSet};

use biodivine_lib_bdd::{Bdd, BddPartialValuation, BddValuation, BddVariable, BddVariableSet};

use crate::decide::Judge;
use crate::diagram::union;
use crate::language::{
    Addresses, Budget, Class, Grammar, Located, Pairs, TooLarge, classes, text_in,
};
use crate::predicate::{Language, Matcher, Predicate};
use crate::program::{Formula, Question, Questions};
use crate::sample::{Fact, Sample, Shape, Variable};

/// Questions, and what can be answered to them.
#[derive(Debug)]
pub struct Space<'a> {
    questions: &'a Questions,
    budget: Budget,
    variables: BddVariableSet,
    blocks: Vec<Block>,
    answers: Vec<Bdd>,
    valid: Bdd,
}

/// How one variable is written.
#[derive(Debug)]
struct Block {
    /// None for a question that is not understood.
    variable: Option<Variable>,
    asked: Vec<Question>,
    form: Form,
}

#[derive(Debug)]
enum Form {
    /// An address: the number of a point, or 0 and those of a local part and a domain.
    Address { point: Code, local: Code, domain: Code, addresses: Box<Addresses> },
    /// The number of a class, for each group of questions.
    Classes(Vec<Group>),
    /// A flag for each question, and the classes of single values where they are known.
    Flags(Vec<BddVariable>, Option<Vec<Class>>),
    /// The number of a range, with the smallest number of each.
    Ranges(Code, Vec<u64>),
    /// Not understood.
    Opaque(BddVariable),
}

/// Some questions about one text, and the classes of texts by their answers.
#[derive(Debug)]
struct Group {
    asked: Vec<Question>,
    code: Code,
    classes: Vec<Class>,
}

/// A number in binary, the highest digit first.
#[derive(Clone, Debug)]
struct Code(Vec<BddVariable>);

/// What was drawn from a point.
#[derive(Debug)]
pub enum Drawn {
    /// A message.
    Message(Sample),
    /// There is none, nor is there one anywhere in this set.
    Nothing(Bdd),
    /// Neither a message nor its absence was found within the budget.
    Unclear,
}

/// More binary variables than a diagram can have.
const BINARY_MAX: usize = 60_000;

impl<'a> Space<'a> {
    /// Writes down what can be answered.
    ///
    /// Ties between variables: what came in no form came neither signed nor encrypted; a message with
    /// a List-Id field is from a mailing list.
    ///
    /// # Errors
    /// [`TooLarge`] where single questions are too much for the budget.
    pub fn new(questions: &'a Questions, budget: Budget) -> Result<Self, TooLarge> {
        let mut by_variable: BTreeMap<&Variable, Vec<Question>> = BTreeMap::new();
        let mut opaque = Vec::new();
        for (number, predicate) in (0..).map(Question).zip(questions.all()) {
            match predicate {
                Predicate::Text { variable, .. } | Predicate::Number { variable, .. } => {
                    by_variable.entry(variable).or_default().push(number);
                }
                Predicate::Opaque(_) => opaque.push(number),
            }
        }
        let mut binary = Binary::default();
        let mut blocks = Vec::new();
        for (variable, asked) in by_variable {
            let form = binary.form(questions, variable, &asked, budget)?;
            blocks.push(Block { variable: Some(variable.clone()), asked, form });
        }
        for question in opaque {
            let form = Form::Opaque(binary.next());
            blocks.push(Block { variable: None, asked: vec![question], form });
        }
        if binary.used > BINARY_MAX {
            return Err(TooLarge);
        }
        let variables = BddVariableSet::new_anonymous(binary.used as u16);
        let mut space = Self {
            questions,
            budget,
            answers: vec![variables.mk_false(); questions.all().len()],
            valid: variables.mk_true(),
            variables,
            blocks,
        };
        space.write_answers();
        space.tie();
        Ok(space)
    }

    /// The questions.
    #[must_use]
    pub const fn questions(&self) -> &'a Questions {
        self.questions
    }

    /// Every point that stands for messages.
    #[must_use]
    pub const fn valid(&self) -> &Bdd {
        &self.valid
    }

    /// No point.
    #[must_use]
    pub fn nothing(&self) -> Bdd {
        self.variables.mk_false()
    }

    /// The points in which a formula holds.
    #[must_use]
    pub fn where_holds(&self, formula: &Formula) -> Bdd {
        match formula {
            Formula::Ask(question) => self.answers[question.0 as usize].clone(),
            Formula::Not(inner) => self.where_holds(inner).not(),
            Formula::All(items) => items
                .iter()
                .map(|item| self.where_holds(item))
                .reduce(|all, one| all.and(&one))
                .unwrap_or_else(|| self.variables.mk_true()),
            Formula::Any(items) => items
                .iter()
                .map(|item| self.where_holds(item))
                .reduce(|all, one| all.or(&one))
                .unwrap_or_else(|| self.variables.mk_false()),
        }
    }

    /// The points that are in a set whatever is answered to questions that are not understood.
    #[must_use]
    pub fn for_certain(&self, set: &Bdd) -> Bdd {
        set.for_all(&self.opaque())
    }

    /// The points that are in a set for some answer to questions that are not understood.
    #[must_use]
    pub fn perhaps(&self, set: &Bdd) -> Bdd {
        set.exists(&self.opaque())
    }

    /// Questions that are not understood and decide, for this message, whether it is in the set.
    #[must_use]
    pub fn doubts(&self, set: &Bdd, point: &BddValuation) -> Vec<Question> {
        let mut known = BddPartialValuation::empty();
        let opaque: BTreeSet<BddVariable> = self.opaque().into_iter().collect();
        for variable in self.variables.variables() {
            if !opaque.contains(&variable) {
                known.set_value(variable, point[variable]);
            }
        }
        let left = set.restrict_valuation(&known).support_set();
        let of = |block: &Block| match block.form {
            Form::Opaque(variable) if left.contains(&variable) => block.asked.first().copied(),
            _ => None,
        };
        self.blocks.iter().filter_map(of).collect()
    }

    fn opaque(&self) -> Vec<BddVariable> {
        let of = |block: &Block| match block.form {
            Form::Opaque(variable) => Some(variable),
            _ => None,
        };
        self.blocks.iter().filter_map(of).collect()
    }

    /// A message that stands for a point.
    #[must_use]
    pub fn draw(&self, point: &BddValuation) -> Drawn {
        let mut sample = Sample::unknown();
        for block in &self.blocks {
            let Some(variable) = &block.variable else {
                continue;
            };
            let fact = match &block.form {
                Form::Opaque(_) => continue,
                Form::Ranges(code, starts) => Fact::Number(starts[code.value(point)]),
                Form::Address { .. } => match self.address(&block.form, point) {
                    Ok(text) => Fact::Text(text),
                    Err(nothing) => return Drawn::Nothing(nothing),
                },
                Form::Classes(groups) => match groups.as_slice() {
                    [group] => Fact::Text(group.class(point).text.clone()),
                    groups => match self.text_across(variable, groups, point) {
                        Ok(Some(text)) => Fact::Text(text),
                        Ok(None) => {
                            return Drawn::Nothing(self.impossible(variable, groups, point));
                        }
                        Err(TooLarge) => return Drawn::Unclear,
                    },
                },
                Form::Flags(flags, Some(classes)) => Fact::Texts(texts(flags, classes, point)),
                Form::Flags(flags, None) => match self.texts_one_by_one(block, flags, point) {
                    Ok(Ok(texts)) => Fact::Texts(texts),
                    Ok(Err(nothing)) => return Drawn::Nothing(nothing),
                    Err(TooLarge) => return Drawn::Unclear,
                },
            };
            sample.set(variable.clone(), fact);
        }
        Drawn::Message(completed(sample))
    }

    /// The points that a message may have by what is known of it.
    #[must_use]
    pub fn known(&self, judge: &Judge, sample: &Sample) -> Bdd {
        let mut known = self.valid.clone();
        for block in &self.blocks {
            let fact = block.variable.as_ref().and_then(|variable| sample.fact(variable));
            let set = match (&block.form, fact) {
                (_, None) | (Form::Opaque(_), _) => continue,
                (Form::Address { point, local, domain, addresses }, Some(Fact::Text(text))) => {
                    // Languages are folded where letters' case does not matter: for addresses always.
                    match addresses.locate(&text.to_ascii_lowercase()) {
                        Some(Located::Point(number)) => self.codes(point, &[number + 1]),
                        Some(Located::Pair(left, right)) => {
                            let pair =
                                self.codes(local, &[left]).and(&self.codes(domain, &[right]));
                            pair.and(&self.codes(point, &[0]))
                        }
                        None => self.answered(judge, block, sample),
                    }
                }
                (Form::Ranges(code, starts), Some(Fact::Number(number))) => {
                    let above = starts.partition_point(|start| start <= number);
                    self.codes(code, &[above.saturating_sub(1)])
                }
                _ => self.answered(judge, block, sample),
            };
            known = known.and(&set);
        }
        known
    }

    /// The points in which a block's questions have a message's answers.
    fn answered(&self, judge: &Judge, block: &Block, sample: &Sample) -> Bdd {
        block.asked.iter().fold(self.variables.mk_true(), |set, question| {
            let answer = &self.answers[question.0 as usize];
            match judge.answer(*question, sample) {
                Some(true) => set.and(answer),
                Some(false) => set.and_not(answer),
                None => set,
            }
        })
    }

    // Answers

    fn write_answers(&mut self) {
        for block in &self.blocks {
            match &block.form {
                Form::Opaque(variable) => {
                    for question in &block.asked {
                        self.answers[question.0 as usize] = self.variables.mk_var(*variable);
                    }
                }
                Form::Address { point, local, domain, addresses } => {
                    for (number, question) in block.asked.iter().enumerate() {
                        let pairs = &addresses.languages[number];
                        let all = pairs.iter().map(|pairs| self.pairs(local, domain, pairs));
                        let paired = union(all.collect()).unwrap_or_else(|| self.nothing());
                        let member = u32::try_from(number).unwrap_or(u32::MAX);
                        let has = |class: &Class| class.members.contains(&member);
                        let points: Vec<usize> = (1..)
                            .zip(&addresses.points)
                            .filter(|(_, class)| has(class))
                            .map(|(number, _)| number)
                            .collect();
                        self.answers[question.0 as usize] =
                            paired.and(&self.codes(point, &[0])).or(&self.codes(point, &points));
                    }
                    let paired = self.codes(point, &[0]);
                    let first = self.codes(local, &[0]).and(&self.codes(domain, &[0]));
                    let valid = self
                        .below(point, addresses.points.len() + 1)
                        .and(&self.below(local, addresses.locals.len()))
                        .and(&self.below(domain, addresses.domains.len()))
                        .and(&paired.or(&first));
                    self.valid = self.valid.and(&valid);
                }
                Form::Classes(groups) => {
                    for group in groups {
                        let members = group.members();
                        for (question, codes) in group.asked.iter().zip(members) {
                            self.answers[question.0 as usize] = self.codes(&group.code, &codes);
                        }
                        let below = self.below(&group.code, group.classes.len());
                        self.valid = self.valid.and(&below);
                    }
                }
                Form::Ranges(code, starts) => {
                    for question in &block.asked {
                        let Predicate::Number { from, to, .. } =
                            self.questions.predicate(*question)
                        else {
                            continue;
                        };
                        let within = |start: &u64| (from..=to).contains(&start);
                        let codes: Vec<usize> =
                            (0..starts.len()).filter(|at| within(&starts[*at])).collect();
                        self.answers[question.0 as usize] = self.codes(code, &codes);
                    }
                    let below = self.below(code, starts.len());
                    self.valid = self.valid.and(&below);
                }
                Form::Flags(flags, classes) => {
                    for (question, flag) in block.asked.iter().zip(flags) {
                        self.answers[question.0 as usize] = self.variables.mk_var(*flag);
                    }
                    if let Some(classes) = classes {
                        let possible = self.possible_flags(flags, classes);
                        self.valid = self.valid.and(&possible);
                    }
                }
            }
        }
    }

    /// The points in which local part and domain are one of these pairs.
    fn pairs(&self, local: &Code, domain: &Code, pairs: &Pairs) -> Bdd {
        let one_of = |code, some: &Option<Vec<usize>>| match some {
            Some(some) => self.codes(code, some),
            None => self.variables.mk_true(),
        };
        one_of(local, &pairs.locals).and(&one_of(domain, &pairs.domains))
    }

    /// The address of a point; else the points of a pair that has none.
    fn address(&self, form: &Form, at: &BddValuation) -> Result<String, Bdd> {
        let Form::Address { point, local, domain, addresses } = form else {
            return Err(self.nothing());
        };
        if let Some(before) = point.value(at).checked_sub(1) {
            return Ok(addresses.points[before].text.clone());
        }
        let (left, right) = (local.value(at), domain.value(at));
        addresses.text(left, right).ok_or_else(|| {
            let pair = self.codes(local, &[left]).and(&self.codes(domain, &[right]));
            pair.and(&self.codes(point, &[0]))
        })
    }

    /// Every flag that is set has a value of its own: one that sets no flag which is not set.
    fn possible_flags(&self, flags: &[BddVariable], classes: &[Class]) -> Bdd {
        let mut possible = self.variables.mk_true();
        for (number, flag) in (0..).zip(flags) {
            let alone = |class: &&Class| class.members == [number];
            if classes.iter().any(|class| alone(&class)) {
                continue;
            }
            let with = classes.iter().filter(|class| class.members.contains(&number));
            let mut some = self.variables.mk_false();
            for class in with {
                let mut clause = BddPartialValuation::empty();
                for member in &class.members {
                    clause.set_value(flags[*member as usize], true);
                }
                some = some.or(&self.variables.mk_conjunctive_clause(&clause));
            }
            possible = possible.and(&self.variables.mk_not_var(*flag).or(&some));
        }
        possible
    }

    /// The points in which a number is one of these.
    fn codes(&self, code: &Code, numbers: &[usize]) -> Bdd {
        let clauses: Vec<BddPartialValuation> =
            numbers.iter().map(|number| code.clause(*number)).collect();
        self.variables.mk_dnf(&clauses)
    }

    /// The points in which a number is below this one.
    fn below(&self, code: &Code, bound: usize) -> Bdd {
        let digits = code.0.len();
        if bound >> digits > 0 {
            return self.variables.mk_true();
        }
        let mut below = self.variables.mk_false();
        for (place, variable) in code.0.iter().rev().enumerate() {
            let zero = self.variables.mk_not_var(*variable);
            below = if bound >> place & 1 == 1 { zero.or(&below) } else { zero.and(&below) };
        }
        below
    }

    // Ties

    fn tie(&mut self) {
        let plain = self.where_word(&Variable::Encoding, "none");
        let unsigned = self.where_word(&Variable::Signed, "no");
        let open = self.where_word(&Variable::Encrypted, "no");
        if let Some(plain) = plain {
            for other in [&unsigned, &open].into_iter().flatten() {
                self.valid = self.valid.and(&plain.imp(other));
            }
            if let (Some(unsigned), Some(open)) = (unsigned, open) {
                self.valid = self.valid.and(&unsigned.and(&open).imp(&plain));
            }
        }
        let Some(listed) = self.where_word(&Variable::MailingList, "yes") else {
            return;
        };
        let list_id = Variable::header("List-Id");
        let block = self.blocks.iter().find(|block| block.variable.as_ref() == Some(&list_id));
        if let Some(Block { form: Form::Flags(flags, _), .. }) = block {
            for flag in flags {
                self.valid = self.valid.and(&self.variables.mk_var(*flag).imp(&listed));
            }
        }
    }

    /// The points in which a variable is this word; none where nobody asks for it.
    fn where_word(&self, variable: &Variable, word: &str) -> Option<Bdd> {
        let block = self.blocks.iter().find(|block| block.variable.as_ref() == Some(variable))?;
        let Form::Classes(groups) = &block.form else {
            return None;
        };
        let group = groups.first()?;
        let number = group.classes.iter().position(|class| class.text == word)?;
        Some(self.codes(&group.code, &[number]))
    }

    // Texts across groups

    fn languages(&self, asked: &[Question]) -> Vec<&'a Language> {
        languages(self.questions, asked)
    }

    /// The answers of a point to all questions about a text, group by group.
    fn members(groups: &[Group], point: &BddValuation) -> (Vec<Question>, Vec<bool>) {
        let (mut asked, mut members) = (Vec::new(), Vec::new());
        for group in groups {
            let class = group.class(point);
            for (number, question) in (0..).zip(&group.asked) {
                asked.push(*question);
                members.push(class.members.contains(&number));
            }
        }
        (asked, members)
    }

    fn text_across(
        &self,
        variable: &Variable,
        groups: &[Group],
        point: &BddValuation,
    ) -> Result<Option<String>, TooLarge> {
        let (asked, members) = Self::members(groups, point);
        self.text(variable, &asked, &members)
    }

    fn text(
        &self,
        variable: &Variable,
        asked: &[Question],
        members: &[bool],
    ) -> Result<Option<String>, TooLarge> {
        match grammar(variable.shape()) {
            Some(grammar) => text_in(grammar, &self.languages(asked), members, self.budget),
            None => Ok(None),
        }
    }

    /// Answers that no text gives together, as few as are found: the points that have them.
    fn impossible(&self, variable: &Variable, groups: &[Group], point: &BddValuation) -> Bdd {
        let (mut asked, mut members) = Self::members(groups, point);
        let mut place = 0;
        while place < asked.len() {
            let (question, member) = (asked.remove(place), members.remove(place));
            if self.text(variable, &asked, &members) != Ok(None) {
                asked.insert(place, question);
                members.insert(place, member);
                place += 1;
            }
        }
        asked.iter().zip(members).fold(self.variables.mk_true(), |set, (question, member)| {
            let answer = &self.answers[question.0 as usize];
            if member { set.and(answer) } else { set.and_not(answer) }
        })
    }

    /// A value for each flag that is set, found by itself; else the points that cannot be.
    fn texts_one_by_one(
        &self,
        block: &Block,
        flags: &[BddVariable],
        point: &BddValuation,
    ) -> Result<Result<Vec<String>, Bdd>, TooLarge> {
        let Some(variable) = &block.variable else {
            return Ok(Ok(Vec::new()));
        };
        let mut texts = Vec::new();
        for (question, _) in block.asked.iter().zip(flags).filter(|(_, flag)| point[**flag]) {
            // The others that are not set must stay so; those that are set may be met or not.
            let mut asked = vec![*question];
            let unset = block.asked.iter().zip(flags).filter(|(_, flag)| !point[**flag]);
            asked.extend(unset.map(|(other, _)| *other));
            let mut members = vec![false; asked.len()];
            members[0] = true;
            match self.text(variable, &asked, &members)? {
                Some(text) => texts.push(text),
                None => {
                    let answer = |question: &Question| &self.answers[question.0 as usize];
                    let start = answer(question).clone();
                    let rest = asked[1..].iter();
                    return Ok(Err(rest.fold(start, |set, other| set.and_not(answer(other)))));
                }
            }
        }
        Ok(Ok(texts))
    }
}

/// Adds what every message has.
fn completed(mut sample: Sample) -> Sample {
    for variable in [Variable::Recipient, Variable::Sender] {
        if sample.fact(&variable).is_none() {
            sample.set(variable, Fact::Text("a@a".into()));
        }
    }
    sample
}

/// The smallest values that set exactly these flags.
fn texts(flags: &[BddVariable], classes: &[Class], point: &BddValuation) -> Vec<String> {
    let set = |member: &u32| point[flags[*member as usize]];
    let mut missing: BTreeSet<u32> =
        (0..).zip(flags).filter(|(_, flag)| point[**flag]).map(|(number, _)| number).collect();
    let mut texts = Vec::new();
    // What sets the most that is missing goes first; of equals, the smallest.
    while !missing.is_empty() {
        let usable = classes.iter().filter(|class| class.members.iter().all(set));
        let gain = |class: &&Class| class.members.iter().filter(|at| missing.contains(at)).count();
        let best = usable.rev().max_by_key(gain).filter(|class| gain(class) > 0);
        let Some(class) = best else {
            break;
        };
        for member in &class.members {
            missing.remove(member);
        }
        texts.push(class.text.clone());
    }
    texts
}

fn languages<'a>(questions: &'a Questions, asked: &[Question]) -> Vec<&'a Language> {
    let language = |question: &Question| match questions.predicate(*question) {
        Predicate::Text { language, .. } => Some(language),
        _ => None,
    };
    asked.iter().filter_map(language).collect()
}

/// What texts a variable of this shape can have, where an automaton tells their classes.
const fn grammar(shape: Shape) -> Option<Grammar> {
    match shape {
        Shape::Text => Some(Grammar::Line),
        Shape::Texts => Some(Grammar::Value),
        Shape::Word(_) | Shape::Address { .. } | Shape::Number => None,
    }
}

/// Hands out binary variables.
#[derive(Default)]
struct Binary {
    used: usize,
}

impl Binary {
    fn next(&mut self) -> BddVariable {
        self.used += 1;
        BddVariable::from_index(self.used - 1)
    }

    fn code(&mut self, count: usize) -> Code {
        let digits = usize::BITS - count.saturating_sub(1).leading_zeros();
        Code((0..digits).map(|_| self.next()).collect())
    }

    fn form(
        &mut self,
        questions: &Questions,
        variable: &Variable,
        asked: &[Question],
        budget: Budget,
    ) -> Result<Form, TooLarge> {
        let shape = variable.shape();
        match (shape, grammar(shape)) {
            (Shape::Address { nullable }, _) => {
                let bare = if nullable { "" } else { "postmaster" };
                let addresses = Addresses::new(bare, &languages(questions, asked), budget)?;
                Ok(Form::Address {
                    point: self.code(addresses.points.len() + 1),
                    local: self.code(addresses.locals.len()),
                    domain: self.code(addresses.domains.len()),
                    addresses: Box::new(addresses),
                })
            }
            (Shape::Word(words), _) => {
                let classes = words_as_classes(questions, variable, words, asked);
                let code = self.code(classes.len());
                Ok(Form::Classes(vec![Group { asked: asked.to_vec(), code, classes }]))
            }
            (Shape::Texts, Some(grammar)) => {
                let flags = asked.iter().map(|_| self.next()).collect();
                let classes = classes(grammar, &languages(questions, asked), budget).ok();
                Ok(Form::Flags(flags, classes))
            }
            (_, Some(grammar)) => {
                let mut groups = Vec::new();
                self.groups(questions, grammar, asked, budget, &mut groups)?;
                Ok(Form::Classes(groups))
            }
            (_, None) => {
                let starts = ranges(questions, asked);
                Ok(Form::Ranges(self.code(starts.len()), starts))
            }
        }
    }

    /// One group of all questions, or of each half.
    fn groups(
        &mut self,
        questions: &Questions,
        grammar: Grammar,
        asked: &[Question],
        budget: Budget,
        groups: &mut Vec<Group>,
    ) -> Result<(), TooLarge> {
        match classes(grammar, &languages(questions, asked), budget) {
            Ok(classes) => {
                let code = self.code(classes.len());
                groups.push(Group { asked: asked.to_vec(), code, classes });
                Ok(())
            }
            Err(TooLarge) if asked.len() < 2 => Err(TooLarge),
            Err(TooLarge) => {
                let (one, two) = asked.split_at(asked.len() / 2);
                self.groups(questions, grammar, one, budget, groups)?;
                self.groups(questions, grammar, two, budget, groups)
            }
        }
    }
}

/// Every word is a class of its own, so that ties can name it.
fn words_as_classes(
    questions: &Questions,
    variable: &Variable,
    words: &[&str],
    asked: &[Question],
) -> Vec<Class> {
    let matchers: Vec<Matcher> =
        asked.iter().map(|question| Matcher::new(questions.predicate(*question))).collect();
    let class = |word: &&str| {
        let sample = Sample::unknown().with_text(variable.clone(), word);
        let members = (0..).zip(&matchers);
        let members = members.filter(|(_, matcher)| matcher.holds(&sample) == Some(true));
        Class { members: members.map(|(number, _)| number).collect(), text: (*word).to_owned() }
    };
    words.iter().map(class).collect()
}

/// The smallest number of each range in which all answers are the same.
fn ranges(questions: &Questions, asked: &[Question]) -> Vec<u64> {
    let mut starts = BTreeSet::from([0]);
    for question in asked {
        if let Predicate::Number { from, to, .. } = questions.predicate(*question) {
            starts.insert(*from);
            starts.extend(to.checked_add(1));
        }
    }
    starts.into_iter().collect()
}

impl Group {
    /// For each question, the classes whose answer is yes.
    fn members(&self) -> Vec<Vec<usize>> {
        let mut members = vec![Vec::new(); self.asked.len()];
        for (number, class) in self.classes.iter().enumerate() {
            for member in &class.members {
                members[*member as usize].push(number);
            }
        }
        members
    }

    fn class(&self, point: &BddValuation) -> &Class {
        &self.classes[self.code.value(point)]
    }
}

impl Code {
    fn value(&self, point: &BddValuation) -> usize {
        self.0.iter().fold(0, |value, digit| value << 1 | usize::from(point[*digit]))
    }

    fn clause(&self, number: usize) -> BddPartialValuation {
        let mut clause = BddPartialValuation::empty();
        for (place, variable) in self.0.iter().rev().enumerate() {
            clause.set_value(*variable, number >> place & 1 == 1);
        }
        clause
    }
}
