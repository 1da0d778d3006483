//! The table of devices that the shell changes while a pass still reads it.

use std::sync::Arc;

use wardring_planner::{DeviceRow, DeviceTable};

#[test]
fn a_table_that_changes_while_a_pass_reads_it_copies_no_row_and_changes_nothing_that_is_read() {
    let rows = (0..100).map(|number| DeviceRow::ready(&format!("ws-{number:03}"), "Windows 11"));
    let mut table = Arc::new(DeviceTable::new(rows.collect(), Vec::new()));
    let read = table.clone();

    let offline = DeviceRow { online: Some(false), ..DeviceRow::ready("ws-050", "Windows 11") };
    Arc::make_mut(&mut table).upsert(offline);
    Arc::make_mut(&mut table).remove("ws-000");

    let is_online = |table: &DeviceTable| table.get("ws-050").unwrap().is_online();
    assert_eq!((is_online(&read), is_online(&table)), (true, false));
    assert_eq!((read.rows().len(), table.rows().len()), (100, 99));
    let shared = table.rows().iter().filter(|row| {
        let before = &read.rows()[read.find(&row.name).unwrap()];
        Arc::ptr_eq(before, row)
    });
    assert_eq!(shared.count(), 98);
}
