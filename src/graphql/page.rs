//! Lists: which part of them is asked for, and where the next part begins.

use std::borrow::Cow;

use async_graphql::{Object, OutputType, Result, SimpleObject, TypeName};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use super::failure::fault;
use crate::domain::id::TenantId;
use crate::error_code::ErrorCode;
use crate::projections::{Key, Page, Slice};

/// The longest page.
pub(super) const MAX_PAGE: usize = 100;
/// The page of a caller who does not say.
const DEFAULT_PAGE: usize = 20;
/// Form of a cursor: this byte, 8 bytes of check, 8 bytes of number, the rest of the key.
const FORMAT: u8 = 1;
const CHECK_BYTES: usize = 8;

/// The arguments of every list.
#[derive(Clone, Debug, Default)]
pub(super) struct PageArgs {
    pub(super) first: Option<i32>,
    pub(super) after: Option<String>,
    pub(super) last: Option<i32>,
    pub(super) before: Option<String>,
}

/// What a list costs: each item 1, and a quarter of what is asked of it. So 100 deliveries with 20 attempts each pass,
/// and 100 with 100 do not.
pub(super) fn cost(first: Option<i32>, last: Option<i32>, child: usize) -> usize {
    items(first.or(last).and_then(|count| usize::try_from(count).ok()).unwrap_or(DEFAULT_PAGE), child)
}

/// What so many items cost.
pub(super) fn items(count: usize, child: usize) -> usize {
    count.min(MAX_PAGE).saturating_mul(child.div_ceil(4).saturating_add(1)).saturating_add(1)
}

/// Which list it is: a cursor of one is no cursor of another.
#[derive(Clone, Debug)]
pub struct List(String);

impl List {
    /// The list of that name with what it is filtered by, in words that never change.
    pub fn new(tenant: Option<TenantId>, name: &str, filter: &[(&str, Option<String>)]) -> Self {
        let owner = tenant.map_or(String::new(), |tenant| tenant.to_string());
        let filter: Vec<_> = filter.iter().filter(|(_, value)| value.is_some()).collect();
        Self(serde_json::to_string(&(owner, name, filter)).expect("texts are always JSON"))
    }

    /// The cursor of an item.
    pub fn cursor(&self, key: &Key) -> String {
        let body = [&key.0.to_be_bytes()[..], key.1.as_bytes()].concat();
        URL_SAFE_NO_PAD.encode([&[FORMAT], &self.check(&body)[..], &body].concat())
    }

    /// The key that a cursor of this list holds.
    pub(super) fn key_of(&self, cursor: &str) -> Result<Key> {
        let damaged = || fault(ErrorCode::InvalidCursor, "the cursor is damaged or belongs to another list");
        self.key(cursor).ok_or_else(damaged)
    }

    /// The same; `None` for what is no cursor of this list.
    pub fn key(&self, cursor: &str) -> Option<Key> {
        let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let (format, rest) = bytes.split_first()?;
        let (check, body) = rest.split_first_chunk::<CHECK_BYTES>()?;
        let (number, text) = body.split_first_chunk::<8>()?;
        (*format == FORMAT && *check == self.check(body))
            .then(|| Some(Key(i64::from_be_bytes(*number), String::from_utf8(text.to_vec()).ok()?)))?
    }

    /// Finds damage and mistaken lists. Not a secret: a forged cursor shows nothing but a part of the caller's own list.
    fn check(&self, body: &[u8]) -> [u8; CHECK_BYTES] {
        let mut hash = Sha256::new();
        hash.update((self.0.len() as u64).to_be_bytes());
        hash.update(&self.0);
        hash.update(body);
        hash.finalize()[..CHECK_BYTES].try_into().expect("the hash is longer")
    }
}

impl PageArgs {
    /// The page that is asked for.
    pub(super) fn of(self, list: &List) -> Result<Page> {
        let invalid = |message: &str| Err(fault(ErrorCode::InvalidInput, message));
        if self.first.is_some() && self.last.is_some() {
            return invalid("give 'first' or 'last', not both");
        }
        let limit = match self.first.or(self.last).map(usize::try_from) {
            None => DEFAULT_PAGE,
            Some(Ok(count @ 1..=MAX_PAGE)) => count,
            Some(_) => return invalid("'first' and 'last' are 1 to 100"),
        };
        let key = |cursor: Option<String>| cursor.map(|cursor| list.key_of(&cursor)).transpose();
        Ok(Page { after: key(self.after)?, before: key(self.before)?, limit, from_end: self.last.is_some() })
    }
}

/// Cuts a page out of a list that is in memory, ascending by key.
pub(super) fn cut<T>(rows: Vec<(Key, T)>, page: &Page) -> Slice<T> {
    let position = |key: &Key| (key.0, key.1.clone());
    let inside = |key: &Key| {
        page.after.as_ref().is_none_or(|after| position(key) > position(after))
            && page.before.as_ref().is_none_or(|before| position(key) < position(before))
    };
    let mut rows: Vec<_> = rows.into_iter().filter(|(key, _)| inside(key)).collect();
    let has_more = rows.len() > page.limit;
    if page.from_end {
        rows.drain(..rows.len().saturating_sub(page.limit));
    } else {
        rows.truncate(page.limit);
    }
    Slice::new(rows, has_more)
}

/// One page of a list.
pub(super) struct Connection<T> {
    edges: Vec<Edge<T>>,
    /// Where a page ends that was not filled, at its beginning or its end.
    start: Option<String>,
    end: Option<String>,
    has_next_page: bool,
    has_previous_page: bool,
}

/// An item and its place in the list.
pub(super) struct Edge<T> {
    cursor: String,
    node: T,
}

/// Where a page stands in its list. A page ends early where a filter has found little among 5,000 items: it then has
/// fewer items than were asked for, or none, and `hasNextPage` says that the list goes on behind `endCursor`
/// (`hasPreviousPage`, `startCursor` where `last` was given).
#[derive(SimpleObject)]
pub(super) struct PageInfo {
    /// Whether items follow this page. Known for sure when paging forward.
    has_next_page: bool,
    /// Whether items precede this page. Known for sure when paging backward.
    has_previous_page: bool,
    /// Cursor of the first item, or of where the page begins if it has fewer items than were asked for; null if there
    /// is nothing before it either.
    start_cursor: Option<String>,
    /// Cursor of the last item, or of where the page ends if it has fewer items than were asked for; null if there is
    /// nothing behind it either.
    end_cursor: Option<String>,
}

impl<T> Connection<T> {
    pub(super) fn new<R>(list: &List, page: &Page, slice: Slice<R>, node: impl Fn(R) -> T) -> Self {
        let (has_next_page, has_previous_page) = match page.from_end {
            true => (page.before.is_some(), slice.has_more),
            false => (slice.has_more, page.after.is_some()),
        };
        let edge = slice.edge.as_ref().map(|key| list.cursor(key));
        let (start, end) = if page.from_end { (edge, None) } else { (None, edge) };
        let edges: Vec<_> = slice.rows.into_iter().map(|(key, row)| Edge::new(list, &key, node(row))).collect();
        let start = start.or_else(|| edges.first().map(|edge| edge.cursor.clone()));
        let end = end.or_else(|| edges.last().map(|edge| edge.cursor.clone()));
        Self { edges, start, end, has_next_page, has_previous_page }
    }
}

impl<T> Edge<T> {
    pub(super) fn new(list: &List, key: &Key, node: T) -> Self {
        Self { cursor: list.cursor(key), node }
    }
}

impl<T: OutputType> TypeName for Connection<T> {
    fn type_name() -> Cow<'static, str> {
        format!("{}Connection", T::type_name()).into()
    }
}

impl<T: OutputType> TypeName for Edge<T> {
    fn type_name() -> Cow<'static, str> {
        format!("{}Edge", T::type_name()).into()
    }
}

/// One page of a list.
#[Object(name_type)]
impl<T: OutputType> Connection<T> {
    /// The items with their cursors.
    async fn edges(&self) -> &[Edge<T>] {
        &self.edges
    }

    /// The items alone.
    async fn nodes(&self) -> Vec<&T> {
        self.edges.iter().map(|edge| &edge.node).collect()
    }

    /// Where the page stands in the list.
    async fn page_info(&self) -> PageInfo {
        PageInfo {
            has_next_page: self.has_next_page,
            has_previous_page: self.has_previous_page,
            start_cursor: self.start.clone(),
            end_cursor: self.end.clone(),
        }
    }
}

/// An item of a list and its place there.
#[Object(name_type)]
impl<T: OutputType> Edge<T> {
    /// The item's place; for `after` and `before` of the same list with the same filter. Never expires.
    async fn cursor(&self) -> &str {
        &self.cursor
    }

    /// The item.
    async fn node(&self) -> &T {
        &self.node
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(name: &str, enabled: Option<&str>) -> List {
        List::new(Some(TenantId::from_parts(1, 1)), name, &[("enabled", enabled.map(str::to_owned))])
    }

    fn code(result: Result<Page>) -> String {
        result.unwrap_err().extensions.unwrap().get("code").unwrap().to_string()
    }

    #[test]
    fn a_cursor_leads_back_to_its_key() {
        let list = list("webhooks", Some("true"));
        for key in [Key(0, String::new()), Key(i64::MAX, "wh_01".into()), Key(-1, "ü.*".into())] {
            assert_eq!(list.key(&list.cursor(&key)), Some(key));
        }
    }

    #[test]
    fn a_changed_cursor_is_refused() {
        let list = list("webhooks", None);
        let cursor = list.cursor(&Key(1_763_894_415_000, "wh_01ARZ3NDEKTSV4RRFFQ69G5FAV".into()));
        for at in 0..cursor.len() {
            let other = if cursor.as_bytes()[at] == b'A' { "B" } else { "A" };
            let changed = format!("{}{other}{}", &cursor[..at], &cursor[at + 1..]);
            assert_eq!(list.key(&changed), None, "{changed}");
            assert_eq!(list.key(&cursor[..at]), None);
        }
        let args = PageArgs { after: Some("not a cursor".into()), ..PageArgs::default() };
        assert_eq!(code(args.of(&list)), "\"INVALID_CURSOR\"");
    }

    #[test]
    fn a_cursor_belongs_to_one_list_with_one_filter_of_one_tenant() {
        let cursor = list("webhooks", Some("true")).cursor(&Key(1, "a".into()));
        let foreign = List::new(Some(TenantId::from_parts(2, 2)), "webhooks", &[("enabled", Some("true".into()))]);
        for other in
            [list("webhooks", Some("false")), list("webhooks", None), list("deliveries", Some("true")), foreign]
        {
            assert_eq!(other.key(&cursor), None);
        }
    }

    #[test]
    fn a_page_has_1_to_100_items_from_one_end() {
        let list = list("webhooks", None);
        let limit = |first, last| PageArgs { first, last, ..PageArgs::default() }.of(&list);
        assert_eq!(limit(None, None).unwrap().limit, 20);
        assert_eq!(limit(Some(100), None).unwrap().limit, 100);
        assert!(limit(None, Some(1)).unwrap().from_end);
        for (first, last) in [(Some(0), None), (Some(101), None), (None, Some(-1)), (Some(1), Some(1))] {
            assert_eq!(code(limit(first, last)), "\"INVALID_INPUT\"");
        }
    }

    #[test]
    fn a_list_in_memory_is_cut_from_either_end() {
        let rows = || (0..5).map(|n| (Key(0, n.to_string()), n)).collect::<Vec<_>>();
        let key = |n: i32| Some(Key(0, n.to_string()));
        let cut = |after, before, limit, from_end| {
            let slice = cut(rows(), &Page { after, before, limit, from_end });
            (slice.rows.into_iter().map(|(_, n)| n).collect::<Vec<_>>(), slice.has_more)
        };
        assert_eq!(cut(None, None, 2, false), (vec![0, 1], true));
        assert_eq!(cut(key(1), None, 3, false), (vec![2, 3, 4], false));
        assert_eq!(cut(None, key(3), 2, true), (vec![1, 2], true));
        assert_eq!(cut(key(0), key(2), 9, true), (vec![1], false));
    }

    #[test]
    fn a_hostile_page_size_costs_no_more_than_the_largest() {
        assert_eq!(cost(Some(i32::MAX), None, 10), 401);
        assert_eq!(cost(Some(-5), None, 10), 81);
        assert_eq!(cost(None, Some(100), usize::MAX), usize::MAX);
    }
}
