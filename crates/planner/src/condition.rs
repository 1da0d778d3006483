//! Conditions of gates: CEL, held to what cannot burn time and cannot pass by accident.
//!
//! There are no macros, no comprehensions and no regular expressions, so evaluating takes a time that
//! the length of the text bounds. Comparisons are looked at one by one: in CEL a comparison with NaN is
//! false, and a condition for failure that is false would be a pass.

mod judge;
mod value;

use std::collections::BTreeMap;

use cel::{
    Context, Program,
    common::ast::{CallExpr, Expr, operators},
};

pub use judge::{Judgement, judge, measure, threshold};
pub(crate) use judge::{counted, unreadable};
pub use value::ConditionValue;

/// What a condition can refer to, by name.
pub type Variables = BTreeMap<String, ConditionValue>;

/// Longest text of a condition.
pub const MAX_CONDITION: usize = 1024;

/// Brackets, signs and the like in one condition: what is nested too deeply would need a deep stack.
const MAX_NESTING: usize = 64;

/// Functions besides the operators.
const FUNCTIONS: &[&str] =
    &["size", "int", "double", "string", "contains", "startsWith", "endsWith"];

const COMPARISONS: &[&str] = &[
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::LESS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::GREATER_EQUALS,
    operators::IN,
];

const LOGIC: &[&str] = &[
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::CONDITIONAL,
];

const ARITHMETIC: &[&str] = &[
    operators::ADD,
    operators::SUBSTRACT,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    operators::NEGATE,
    operators::INDEX,
];

/// Why a text is not a condition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConditionError {
    /// Longer than [`MAX_CONDITION`].
    #[error("it has more than {MAX_CONDITION} characters")]
    TooLong,
    /// Too many brackets or signs within each other.
    #[error("it is nested too deeply")]
    TooDeep,
    /// Not CEL.
    #[error("it does not read: {0}")]
    Syntax(String),
    /// Something that conditions do without.
    #[error("it uses {0}, which conditions do without")]
    Forbidden(String),
    /// A comparison inside of a comparison or a calculation.
    #[error("it compares or calculates with the answer of a comparison; use `&&`, `||` and `!`")]
    Nested,
}

/// A condition that was read.
#[derive(Debug)]
pub struct Condition {
    program: Program,
}

impl Condition {
    /// Reads a condition, or says what is wrong with it.
    pub fn compile(text: &str) -> Result<Condition, ConditionError> {
        if text.len() > MAX_CONDITION {
            return Err(ConditionError::TooLong);
        }
        if nesting(text) > MAX_NESTING {
            return Err(ConditionError::TooDeep);
        }
        let program = Program::compile(text).map_err(|errors| {
            let told = errors.errors.first().map(|error| error.msg.clone()).unwrap_or_default();
            ConditionError::Syntax(told)
        })?;
        allowed(&program.expression().expr, Place::Truth, 0)?;
        Ok(Condition { program })
    }

    /// Whether it holds. Everything that is not clearly yes or no is an error, in words.
    pub fn holds(&self, variables: &Variables) -> Result<bool, String> {
        let context = context(variables)?;
        truth(&self.program.expression().expr, &context)
    }

    /// Its value, where it is no yes or no.
    pub fn value(&self, variables: &Variables) -> Result<ConditionValue, String> {
        let context = context(variables)?;
        plain(&self.program.expression().expr, &context)
    }
}

/// An upper bound of how deeply anything in the text is nested.
fn nesting(text: &str) -> usize {
    let (mut depth, mut deepest, mut signs) = (0_usize, 0, 0_usize);
    for letter in text.chars() {
        match letter {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            '!' | '-' | '?' => signs += 1,
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest + signs
}

/// Where in a condition a part stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Its answer is the condition's, or goes into logic.
    Truth,
    /// It is compared or calculated with.
    Operand,
}

fn allowed(expr: &Expr, place: Place, depth: usize) -> Result<(), ConditionError> {
    if depth > 8 * MAX_NESTING {
        return Err(ConditionError::TooDeep);
    }
    let deeper = |expr: &Expr, place| allowed(expr, place, depth + 1);
    match expr {
        Expr::Ident(_) | Expr::Literal(_) => Ok(()),
        Expr::Select(select) => deeper(&select.operand.expr, Place::Operand),
        Expr::List(list) => {
            list.elements.iter().try_for_each(|part| deeper(&part.expr, Place::Operand))
        }
        Expr::Call(call) => {
            let name = call.func_name.as_str();
            let parts = call.target.iter().map(|target| &**target).chain(&call.args);
            let inner = if LOGIC.contains(&name) {
                if place == Place::Operand {
                    return Err(ConditionError::Nested);
                }
                Place::Truth
            } else if COMPARISONS.contains(&name) {
                if place == Place::Operand {
                    return Err(ConditionError::Nested);
                }
                Place::Operand
            } else if ARITHMETIC.contains(&name) || FUNCTIONS.contains(&name) {
                Place::Operand
            } else {
                return Err(ConditionError::Forbidden(format!("`{name}`")));
            };
            parts.into_iter().try_for_each(|part| deeper(&part.expr, inner))
        }
        Expr::Comprehension(_) => {
            Err(ConditionError::Forbidden("a macro that walks over a list".to_owned()))
        }
        Expr::Map(_) | Expr::Struct(_) => {
            Err(ConditionError::Forbidden("a map or a structure".to_owned()))
        }
        Expr::Unspecified => Err(ConditionError::Syntax("it is empty".to_owned())),
    }
}

fn context<'v>(variables: &Variables) -> Result<Context<'v, 'v>, String> {
    let mut context = Context::default();
    for (name, value) in variables {
        let value = cel::to_value(value).map_err(|error| error.to_string())?;
        context.add_variable_from_value(name.as_str(), value);
    }
    Ok(context)
}

fn resolve(expr: &Expr, context: &Context<'_, '_>) -> Result<cel::Value, String> {
    let part = cel::IdedExpr { id: 0, expr: expr.clone() };
    cel::Value::resolve(&part, context).map_err(|error| error.to_string())
}

/// Left to right, and an error is an error: CEL itself would look past one when the other side decides.
fn truth(expr: &Expr, context: &Context<'_, '_>) -> Result<bool, String> {
    if let Expr::Call(CallExpr { func_name, args, .. }) = expr {
        match (func_name.as_str(), args.as_slice()) {
            (operators::LOGICAL_AND, [left, right]) => {
                return Ok(truth(&left.expr, context)? && truth(&right.expr, context)?);
            }
            (operators::LOGICAL_OR, [left, right]) => {
                return Ok(truth(&left.expr, context)? || truth(&right.expr, context)?);
            }
            (operators::LOGICAL_NOT, [inner]) => return Ok(!truth(&inner.expr, context)?),
            (operators::CONDITIONAL, [asked, yes, no]) => {
                let branch = if truth(&asked.expr, context)? { yes } else { no };
                return truth(&branch.expr, context);
            }
            (name, parts) if COMPARISONS.contains(&name) => {
                for part in parts {
                    plain(&part.expr, context)?;
                }
            }
            _ => {}
        }
    }
    match resolve(expr, context)? {
        cel::Value::Bool(answer) => Ok(answer),
        other => Err(format!("it is {} and neither true nor false", other.type_of())),
    }
}

/// The value of a part that is no logic, without a number that is none.
fn plain(expr: &Expr, context: &Context<'_, '_>) -> Result<ConditionValue, String> {
    if let Expr::Call(CallExpr { func_name, args, .. }) = expr
        && let (operators::CONDITIONAL, [asked, yes, no]) = (func_name.as_str(), args.as_slice())
    {
        let branch = if truth(&asked.expr, context)? { yes } else { no };
        return plain(&branch.expr, context);
    }
    let value = ConditionValue::from_cel(&resolve(expr, context)?)?;
    if value.has_a_number_that_is_none() {
        return Err("a number in it is none (such as 0 divided by 0)".to_owned());
    }
    Ok(value)
}

#[cfg(test)]
mod tests;
