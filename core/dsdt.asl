/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DSDT of the machine: only what firmware tables cannot say elsewhere. A guest interprets this while
 * it boots, so it stays small. Compiled by iasl into dsdt.hex, put into guest memory by acpi.c.
 */
DefinitionBlock ("dsdt.aml", "DSDT", 2, "TORPOR", "TORPORVM", 0x00000001)
{
	/* Soft off: SLP_TYP 5, ACPI_PM_SLP_TYP_S5 in devices/acpi_pm.h. */
	Name (_S5, Package (0x04) { 0x05, 0x05, Zero, Zero })

	Scope (_SB)
	{
		/* devices/serial.c */
		Device (COM1)
		{
			Name (_HID, EisaId ("PNP0501"))
			Name (_UID, One)
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, 0x03F8, 0x03F8, 0x00, 0x08)
				IRQNoFlags () {4}
			})
		}

		/* devices/rtc.c */
		Device (RTC0)
		{
			Name (_HID, EisaId ("PNP0B00"))
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, 0x0070, 0x0070, 0x00, 0x02)
				IRQNoFlags () {8}
			})
		}

		/* devices/pvpanic.c */
		Device (PEVT)
		{
			Name (_HID, "QEMU0001")
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, 0x0505, 0x0505, 0x01, 0x01)
			})
		}
	}
}
