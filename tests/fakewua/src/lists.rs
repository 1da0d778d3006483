//! Collections.

use std::sync::{Mutex, PoisonError};

use windows::Win32::Foundation::{DISP_E_BADINDEX, VARIANT_BOOL, VARIANT_FALSE};
use windows::Win32::System::Com::IDispatch;
use windows::Win32::System::UpdateAgent::{
    ICategory, ICategory_Impl, ICategoryCollection, ICategoryCollection_Impl, IImageInformation,
    IStringCollection, IStringCollection_Impl, IUpdate, IUpdateCollection, IUpdateCollection_Impl,
    IUpdateException, IUpdateExceptionCollection, IUpdateExceptionCollection_Impl,
    IUpdateHistoryEntry, IUpdateHistoryEntryCollection, IUpdateHistoryEntryCollection_Impl,
};
use windows_core::{BSTR, IUnknown, Ref, Result, implement};

/// Picks an item.
fn pick<T: Clone>(items: &[T], index: i32) -> Result<T> {
    let item = usize::try_from(index).ok().and_then(|index| items.get(index));
    item.cloned().ok_or_else(|| DISP_E_BADINDEX.into())
}

fn count<T>(items: &[T]) -> i32 {
    i32::try_from(items.len()).unwrap_or(i32::MAX)
}

/// Updates.
#[implement(IUpdateCollection, IDispatch)]
#[derive(Default)]
pub struct Updates(pub Mutex<Vec<IUpdate>>);

impl Updates {
    /// A collection of these.
    pub fn of(updates: Vec<IUpdate>) -> IUpdateCollection {
        Updates(Mutex::new(updates)).into()
    }
}

no_dispatch!(Updates_Impl);

impl IUpdateCollection_Impl for Updates_Impl {
    absent! {
        put_Item(i32, Ref<IUpdate>) -> ();
        _NewEnum() -> IUnknown;
        Clear() -> ();
        Copy() -> IUpdateCollection;
        Insert(i32, Ref<IUpdate>) -> ();
        RemoveAt(i32) -> ();
    }

    fn get_Item(&self, index: i32) -> Result<IUpdate> {
        pick(&self.0.lock().unwrap_or_else(PoisonError::into_inner), index)
    }

    fn Count(&self) -> Result<i32> {
        Ok(count(&self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    fn ReadOnly(&self) -> Result<VARIANT_BOOL> {
        Ok(VARIANT_FALSE)
    }

    fn Add(&self, value: Ref<IUpdate>) -> Result<i32> {
        let mut updates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        updates.push(value.ok()?.clone());
        Ok(count(&updates) - 1)
    }
}

/// Texts.
#[implement(IStringCollection, IDispatch)]
pub struct Texts(pub Vec<String>);

no_dispatch!(Texts_Impl);

impl IStringCollection_Impl for Texts_Impl {
    absent! {
        put_Item(i32, &BSTR) -> ();
        _NewEnum() -> IUnknown;
        ReadOnly() -> VARIANT_BOOL;
        Add(&BSTR) -> i32;
        Clear() -> ();
        Copy() -> IStringCollection;
        Insert(i32, &BSTR) -> ();
        RemoveAt(i32) -> ();
    }

    fn get_Item(&self, index: i32) -> Result<BSTR> {
        pick(&self.0, index).map(|text| BSTR::from(text.as_str()))
    }

    fn Count(&self) -> Result<i32> {
        Ok(count(&self.0))
    }
}

/// Categories, by their ids.
#[implement(ICategoryCollection, IDispatch)]
pub struct Categories(pub Vec<String>);

no_dispatch!(Categories_Impl);

impl ICategoryCollection_Impl for Categories_Impl {
    absent! { _NewEnum() -> IUnknown; }

    fn get_Item(&self, index: i32) -> Result<ICategory> {
        pick(&self.0, index).map(|id| Category(id).into())
    }

    fn Count(&self) -> Result<i32> {
        Ok(count(&self.0))
    }
}

#[implement(ICategory, IDispatch)]
struct Category(String);

no_dispatch!(Category_Impl);

impl ICategory_Impl for Category_Impl {
    absent! {
        Name() -> BSTR;
        Children() -> ICategoryCollection;
        Description() -> BSTR;
        Image() -> IImageInformation;
        Order() -> i32;
        Parent() -> ICategory;
        Type() -> BSTR;
        Updates() -> IUpdateCollection;
    }

    fn CategoryID(&self) -> Result<BSTR> {
        Ok(BSTR::from(self.0.as_str()))
    }
}

/// Entries of the history.
#[implement(IUpdateHistoryEntryCollection, IDispatch)]
pub struct Entries(pub Vec<IUpdateHistoryEntry>);

no_dispatch!(Entries_Impl);

impl IUpdateHistoryEntryCollection_Impl for Entries_Impl {
    absent! { _NewEnum() -> IUnknown; }

    fn get_Item(&self, index: i32) -> Result<IUpdateHistoryEntry> {
        pick(&self.0, index)
    }

    fn Count(&self) -> Result<i32> {
        Ok(count(&self.0))
    }
}

/// No warnings.
#[implement(IUpdateExceptionCollection, IDispatch)]
pub struct NoWarnings;

no_dispatch!(NoWarnings_Impl);

impl IUpdateExceptionCollection_Impl for NoWarnings_Impl {
    absent! {
        get_Item(i32) -> IUpdateException;
        _NewEnum() -> IUnknown;
    }

    fn Count(&self) -> Result<i32> {
        Ok(0)
    }
}
